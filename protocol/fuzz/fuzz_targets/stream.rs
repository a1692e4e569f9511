//! What both session targets share: a script of messages, written into a socket before the other side runs.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// One step: two bytes that say what to do, and what follows.
pub struct Step<'a> {
    pub what: u8,
    pub command: u8,
    pub bytes: &'a [u8],
}

/// Cuts the input into steps. The third byte of each is its length.
pub fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let ([what, command, len], rest) = data.split_first_chunk::<3>()?;
        let len = usize::from(*len).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        data = rest;
        Some(Step {
            what: *what,
            command: *command,
            bytes,
        })
    })
    // What is written must fit the socket: nobody reads yet.
    .take(64)
}

pub fn message(id: u16, command: u16, flags: u32, error: u32, body: &[u8]) -> Vec<u8> {
    let size = 16 + u32::try_from(body.len()).expect("short");
    let mut bytes = Vec::new();
    bytes.extend(id.to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// Writes bytes with descriptors beside them: as many of the socket itself.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: usize) {
    send_with(stream, bytes, &vec![stream.as_fd(); fds]);
}

/// Writes bytes with these descriptors beside them.
pub fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // A full socket ends the script; what was written counts.
    let _sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags);
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
