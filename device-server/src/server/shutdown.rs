//! The order to stop: one eventfd that, once signalled, stays readable for everybody who polls it, and the
//! connections to end, for threads that wait in a read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::transport::StreamSocket;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// Shared by all sessions of a process.
#[derive(Debug, Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    eventfd: OwnedFd,
    /// The connections that are served now, at most one per device, and the number of the next.
    watched: Mutex<(Vec<(u64, StreamSocket)>, u64)>,
}

/// A connection that shutdown will end. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Watched<'s> {
    shutdown: &'s Shutdown,
    number: u64,
}

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> io::Result<Shutdown> {
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Shutdown {
            shared: Arc::new(Shared {
                eventfd,
                watched: Mutex::default(),
            }),
        })
    }

    /// Tells every session to end. Can be called any number of times.
    pub fn request(&self) {
        if let Err(errno) = rustix::io::write(&self.shared.eventfd, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "Signal the shutdown eventfd");
        }
        self.watched()
            .0
            .iter()
            .for_each(|(_, socket)| socket.shut_down());
    }

    /// Whether `request` was called.
    pub fn requested(&self) -> bool {
        let mut poll = [PollFd::new(&self.shared.eventfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Has the connection ended when shutdown is requested: later, or before this call.
    pub(super) fn watch(&self, socket: StreamSocket) -> Watched<'_> {
        let mut watched = self.watched();
        let (sockets, next) = &mut *watched;
        let number = *next;
        *next = next.wrapping_add(1);
        // Asked under the lock: a request that comes now finds the socket in the list.
        if self.requested() {
            socket.shut_down();
        }
        sockets.push((number, socket));
        Watched {
            shutdown: self,
            number,
        }
    }

    fn watched(&self) -> MutexGuard<'_, (Vec<(u64, StreamSocket)>, u64)> {
        // Every holder leaves the list whole at every step.
        self.shared
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut watched = self.shutdown.watched();
        let sockets = &mut watched.0;
        let place = sockets
            .iter()
            .position(|(number, _)| *number == self.number);
        let socket = place.map(|place| sockets.swap_remove(place));
        // Closing it may take a while, and nobody else waits for that.
        drop(watched);
        drop(socket);
    }
}
