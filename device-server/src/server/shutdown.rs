//! The order to stop: one eventfd that, once signalled, stays readable for everybody who polls it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// Shared by all sessions of a process.
#[derive(Debug, Clone)]
pub struct Shutdown {
    eventfd: Arc<OwnedFd>,
}

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> io::Result<Shutdown> {
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Shutdown {
            eventfd: Arc::new(eventfd),
        })
    }

    /// Tells every session to end. Can be called any number of times.
    pub fn request(&self) {
        if let Err(errno) = rustix::io::write(&*self.eventfd, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "Signal the shutdown eventfd");
        }
    }

    /// Whether `request` was called.
    pub fn requested(&self) -> bool {
        let mut poll = [PollFd::new(&self.eventfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
