//! Stands between a VMM and a device server, hands every message on, and counts them.
//!
//! It knows of vfio-user only the 16-byte header (message id, command, size, flags, error): so what it counts does
//! not depend on our own engine. Fds go on with the bytes that they came with.
//! Limits: one client; a message longer than `MAX_MESSAGE_BYTES` ends the session.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

const HEADER_BYTES: usize = 16;
const MAX_MESSAGE_BYTES: usize = 4 << 20;
const MAX_FDS: usize = 64;

/// vfio-user DEVICE_GET_REGION_INFO.
const REGION_INFO: u16 = 5;

type Counts = Arc<Mutex<Tally>>;

#[derive(Debug, Default)]
struct Tally {
    /// Messages by command.
    messages: BTreeMap<u16, u64>,
    /// Fds that came with region infos, which only a server sends: they give access to BARs.
    bar_fds: u64,
}

/// Counts the messages of one session, replies included.
#[derive(Debug)]
pub struct MessageCounter {
    counts: Counts,
}

impl MessageCounter {
    /// Listens on `socket` for one client, and connects it to `server`.
    pub fn between(socket: &str, server: &str) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket}"))?;
        let server = UnixStream::connect(server).with_context(|| format!("connect to {server}"))?;
        let counts = Counts::default();
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            if let Ok((client, _)) = listener.accept() {
                relay_both_ways(&client, &server, &shared);
            }
        });
        Ok(Self { counts })
    }

    /// Messages so far, in both directions.
    pub fn total(&self) -> u64 {
        self.tally().messages.values().sum()
    }

    /// Messages so far by vfio-user command number.
    pub fn by_command(&self) -> BTreeMap<u16, u64> {
        self.tally().messages.clone()
    }

    /// Fds that give access to BARs, so far.
    pub fn bar_fds(&self) -> u64 {
        self.tally().bar_fds
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn relay_both_ways(client: &UnixStream, server: &UnixStream, counts: &Counts) {
    std::thread::scope(|scope| {
        for (from, to) in [(client, server), (server, client)] {
            scope.spawn(move || {
                // The session ends when either side closes or breaks the framing; then the other side learns of it.
                let _ = relay(from, to, counts);
                let _ = to.shutdown(std::net::Shutdown::Both);
                let _ = from.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

fn relay(from: &UnixStream, to: &UnixStream, counts: &Counts) -> Result<()> {
    loop {
        let (message, fds) = receive(from)?;
        let command = u16::from_le_bytes([message[2], message[3]]);
        let mut tally = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.messages.entry(command).or_default() += 1;
        if command == REGION_INFO {
            tally.bar_fds += u64::try_from(fds.len())?;
        }
        drop(tally);
        send(to, &message, &fds)?;
    }
}

/// One whole message. Fds come with its first byte.
fn receive(mut from: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; HEADER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let count = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?
    .bytes;
    let mut fds = Vec::new();
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = received {
            fds.extend(rights);
        }
    }
    anyhow::ensure!(count > 0, "the peer closed");
    from.read_exact(&mut message[count..])?;
    let size = usize::try_from(u32::from_le_bytes([
        message[4], message[5], message[6], message[7],
    ]))?;
    anyhow::ensure!(
        (HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&size),
        "a message of {size} bytes"
    );
    message.resize(size, 0);
    from.read_exact(&mut message[HEADER_BYTES..])?;
    Ok((message, fds))
}

fn send(to: &UnixStream, message: &[u8], fds: &[OwnedFd]) -> Result<()> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        anyhow::ensure!(
            control.push(SendAncillaryMessage::ScmRights(&borrowed)),
            "{} fds",
            borrowed.len()
        );
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent < message.len() {
        io::Write::write_all(&mut &*to, &message[sent..])?;
    }
    Ok(())
}
