//! Bytes of a peer that has no descriptors to send: what it sends all the same is closed, by another thread (`closing`).
//!
//! A plain `read` or `recv` would have the kernel close them in the thread that reads. Nothing here waits, so a lock may be held.
//! Limit: a peer of which `MAX_UNCLOSED_OF_CLIENT` are still open is at its end.

use crate::closing::Line;
use crate::limits::{KERNEL_MAX_FDS, MAX_UNCLOSED_OF_CLIENT};
use crate::received_fd::{ReceivedFd, received};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A connected stream socket, Unix or TCP.
#[derive(Debug)]
pub struct ByteStream {
    socket: ReceivedFd,
    line: Arc<Line>,
}

impl ByteStream {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let line = Arc::default();
        Self {
            socket: ReceivedFd::unawaited(socket, &line),
            line,
        }
    }

    /// Reads what is there, without waiting for it; 0 bytes at its end.
    ///
    /// # Errors
    /// `AGAIN` where nothing is there, or what the kernel says.
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        if self.line.has_unclosed(MAX_UNCLOSED_OF_CLIENT) {
            return Ok(0);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let read = recvmsg(&self.socket, &mut slices, &mut control, flags)?.bytes;
        received(&mut control).for_each(|fd| self.line.close_later(fd));
        Ok(read)
    }
}

impl Read for ByteStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(Self::read(self, bytes)?)
    }
}

impl AsFd for ByteStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
