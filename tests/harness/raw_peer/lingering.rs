//! Descriptors that keep who closes them last waiting, as SO_LINGER asks: a TCP socket with bytes that its peer does not read.
//!
//! Whoever sends one must have let go of it before the receiver can: send it with the first bytes of a message, and the rest later.

use std::io::{ErrorKind, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

/// Longer than any wait of a test.
const LINGER: Duration = Duration::from_secs(3600);

/// Such a socket, and its peer, which is to be kept.
pub fn tcp_socket() -> Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut socket = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    sockopt::set_socket_linger(&socket, Some(LINGER))?;
    socket.set_nonblocking(true)?;
    loop {
        match socket.write(&[0; 1 << 16]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    socket.set_nonblocking(false)?;
    Ok((socket.into(), peer))
}

/// A Unix socket in whose queue such a one lies, which the kernel closes with it; and what is to be kept.
pub fn unix_socket() -> Result<(OwnedFd, (UnixStream, TcpStream))> {
    let (inner, peer) = tcp_socket()?;
    let (socket, other) = UnixStream::pair()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(&inner)];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let slices = [std::io::IoSlice::new(b"x")];
    sendmsg(&other, &slices, &mut control, SendFlags::NOSIGNAL)?;
    Ok((socket.into(), (other, peer)))
}
