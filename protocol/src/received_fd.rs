//! A descriptor that a peer sent or made: closing it may take as long as the peer likes, so another thread does it (`closing`).

use crate::closing::Line;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A descriptor of a peer. Dropping it waits until it is closed, at most `CLOSE_DEADLINE`.
#[derive(Debug)]
pub struct ReceivedFd {
    /// Only `Drop` leaves it empty.
    fd: Option<OwnedFd>,
    ending: Ending,
}

/// How it is closed.
#[derive(Clone, Debug)]
enum Ending {
    /// By another thread, which is waited for.
    Awaited(Arc<Line>),
    /// By another thread.
    Later(Arc<Line>),
    /// At once: that asks nobody.
    Harmless,
}

impl ReceivedFd {
    /// One that came on the connection of `line`.
    pub(crate) fn new(fd: OwnedFd, line: &Arc<Line>) -> Self {
        Self {
            fd: Some(fd),
            ending: Ending::Awaited(Arc::clone(line)),
        }
    }

    /// One whose end nobody waits for.
    pub(crate) fn unawaited(fd: OwnedFd, line: &Arc<Line>) -> Self {
        Self {
            fd: Some(fd),
            ending: Ending::Later(Arc::clone(line)),
        }
    }

    /// These, as one peer's.
    pub(crate) fn all(fds: Vec<OwnedFd>) -> Vec<Self> {
        let line = Arc::default();
        fds.into_iter().map(|fd| Self::new(fd, &line)).collect()
    }

    /// It is a memfd, an eventfd or another thing of the kernel's own, as the caller has seen: closing it asks nobody, so it is closed
    /// in place.
    #[must_use]
    pub fn harmless(mut self) -> Self {
        self.ending = Ending::Harmless;
        self
    }
}

/// What came with one `recvmsg`.
pub(crate) fn received(control: &mut RecvAncillaryBuffer<'_>) -> impl Iterator<Item = OwnedFd> {
    let messages = control.drain();
    messages
        .filter_map(|message| {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
}

impl From<OwnedFd> for ReceivedFd {
    fn from(fd: OwnedFd) -> Self {
        Self::new(fd, &Arc::default())
    }
}

impl AsFd for ReceivedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().map_or(rustix::fs::CWD, AsFd::as_fd)
    }
}

impl Drop for ReceivedFd {
    fn drop(&mut self) {
        match (self.fd.take(), &self.ending) {
            (Some(fd), Ending::Awaited(line)) => line.close(fd),
            (Some(fd), Ending::Later(line)) => line.close_later(fd),
            (Some(_), Ending::Harmless) | (None, _) => {}
        }
    }
}
