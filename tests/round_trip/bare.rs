//! The floor: the same kind of socket and the least system calls, and nothing in between. Round trips use send and recv,
//! which cost less than sendmsg and recvmsg; the one-way stream is one of sendmsg, as posted writes are.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child as Process, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send, sendmsg,
};

/// Bytes of a message: a register read's request, and a posted register write.
const PING: usize = 32;
const WRITE: usize = 36;

/// A child with the other end of a socket as its standard input; it ends when the socket does.
pub(crate) struct Child {
    process: Process,
    socket: UnixStream,
}

impl Child {
    pub(crate) fn start(role: &str) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).stdin(Stdio::from(OwnedFd::from(theirs)));
        Ok(Self {
            process: command.spawn().context("start a child")?,
            socket: ours,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ping_pong(&self) -> Result<()> {
        let mut buffer = [0; PING];
        let sent = send(&self.socket, &buffer, SendFlags::NOSIGNAL)?;
        let (_, received) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
        ensure!((sent, received) == (PING, PING), "a short message");
        Ok(())
    }

    /// Sends messages, and waits until the other side has received the last one.
    pub(crate) fn stream(&self, messages: usize) -> Result<()> {
        let mut message = [0; WRITE];
        for left in (0..messages).rev() {
            message[0] = u8::from(left == 0);
            send_message(&self.socket, &message)?;
        }
        ensure!(
            receive_message(&self.socket, &mut message)? == 1,
            "an answer"
        );
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It ends with its socket; an error means that it has ended.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

pub(crate) fn echo() -> Result<()> {
    let (socket, mut buffer) = (std::io::stdin(), [0; PING]);
    while recv(&socket, &mut buffer, RecvFlags::empty())?.1 == PING {
        send(&socket, &buffer, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

pub(crate) fn sink() -> Result<()> {
    let mut buffer = [0; WRITE];
    while receive_message(std::io::stdin(), &mut buffer)? == WRITE {
        if buffer[0] == 1 {
            send_message(std::io::stdin(), &[0])?;
        }
    }
    Ok(())
}

fn send_message(socket: impl rustix::fd::AsFd, bytes: &[u8]) -> Result<()> {
    let mut none = SendAncillaryBuffer::default();
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut none,
        SendFlags::NOSIGNAL,
    )?;
    ensure!(sent == bytes.len(), "a short send");
    Ok(())
}

fn receive_message(socket: impl rustix::fd::AsFd, bytes: &mut [u8]) -> Result<usize> {
    let mut none = RecvAncillaryBuffer::default();
    let mut slices = [IoSliceMut::new(bytes)];
    Ok(recvmsg(socket, &mut slices, &mut none, RecvFlags::empty())?.bytes)
}
