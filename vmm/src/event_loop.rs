//! One thread waits for many file descriptors and calls who is interested.
//!
//! Handlers run on the loop's thread, one after another; they must not block. They may add and remove descriptors and
//! stop the loop, from this thread or any other.
//!
//! Not here: timers (add a timerfd) and signals (add a signalfd).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};

#[cfg(test)]
mod tests;

/// Events taken from the kernel at once.
const BATCH: usize = 16;
/// The token of the loop's own wake-up.
const WAKE: u64 = 0;

/// What to wait for. Errors and hang-ups are always reported, as readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
    /// Either.
    Both,
}

/// Names one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// Called when a descriptor is ready.
pub trait Handler: Send + Sync {
    /// The descriptor is ready. Level-triggered: it is called again as long as the descriptor stays ready.
    fn ready(&self, events: &EventLoop);
}

impl<F: Fn(&EventLoop) + Send + Sync> Handler for F {
    fn ready(&self, events: &EventLoop) {
        self(events);
    }
}

/// The loop.
pub struct EventLoop {
    epoll: OwnedFd,
    wake: OwnedFd,
    stopped: AtomicBool,
    handlers: Mutex<Handlers>,
}

#[derive(Default)]
struct Handlers {
    next: u64,
    by_token: HashMap<Token, Entry>,
}

struct Entry {
    /// Held, so that it stays open and can be taken out of the epoll set.
    fd: Source,
    handler: Arc<dyn Handler>,
}

/// What is waited for: anything with a descriptor, kept for as long as it is waited for. No copy of the descriptor is made.
pub type Source = Arc<dyn AsFd + Send + Sync>;

impl EventLoop {
    /// An empty loop.
    pub fn new() -> io::Result<EventLoop> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let handlers = Mutex::new(Handlers {
            next: WAKE,
            by_token: HashMap::new(),
        });
        Ok(EventLoop {
            epoll,
            wake,
            stopped: AtomicBool::new(false),
            handlers,
        })
    }

    /// Calls `handler` whenever `fd` is ready. A descriptor can be waited for once at a time.
    pub fn add(
        &self,
        fd: Source,
        interest: Interest,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Token> {
        let mut handlers = self.lock();
        handlers.next += 1;
        let token = Token(handlers.next);
        epoll::add(
            &self.epoll,
            fd.as_fd(),
            epoll::EventData::new_u64(token.0),
            flags(interest),
        )?;
        handlers.by_token.insert(token, Entry { fd, handler });
        Ok(token)
    }

    /// Waits for something else from now on.
    pub fn set_interest(&self, token: Token, interest: Interest) -> io::Result<()> {
        let handlers = self.lock();
        let entry = handlers
            .by_token
            .get(&token)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(epoll::modify(
            &self.epoll,
            entry.fd.as_fd(),
            epoll::EventData::new_u64(token.0),
            flags(interest),
        )?)
    }

    /// Forgets a registration. A handler that is running on another thread at this moment still ends its call.
    pub fn remove(&self, token: Token) {
        if let Some(entry) = self.lock().by_token.remove(&token) {
            // The descriptor is open and in the set, so this cannot fail.
            let _removed = epoll::delete(&self.epoll, entry.fd.as_fd());
        }
    }

    /// Ends [`Self::run`] after the handler that is running now, or at once.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // A full counter wakes as well.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Waits and calls handlers until [`Self::stop`].
    pub fn run(&self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(BATCH);
        while !self.stopped.load(Ordering::Acquire) {
            ready.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &ready {
                if self.stopped.load(Ordering::Acquire) {
                    break;
                }
                let handler = self
                    .lock()
                    .by_token
                    .get(&Token(event.data.u64()))
                    .map(|entry| Arc::clone(&entry.handler));
                if let Some(handler) = handler {
                    handler.ready(self);
                }
            }
        }
        self.stopped.store(false, Ordering::Release);
        let mut drained = [0; 8];
        let _drained = rustix::io::read(&self.wake, &mut drained);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Handlers> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Readable => epoll::EventFlags::IN,
        Interest::Writable => epoll::EventFlags::OUT,
        Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
    }
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop")
            .field("registrations", &self.lock().by_token.len())
            .finish_non_exhaustive()
    }
}
