//! Closing what peers sent, on threads that may be held up by it.
//!
//! Whoever made a file can make closing it last: FUSE asks its process at every close (fs/fuse/file.c, `fuse_flush`) and the kernel
//! breaks that off for no signal; a TCP socket with SO_LINGER waits as long as was asked for (net/ipv4/tcp.c, `__tcp_close`), also where
//! nobody received it, or where it lies unread in the queue of another socket. The descriptor's number is free before that.
//! So no thread that serves anybody closes such a thing. A program gives some threads to [`close_for_others`]; a thread that lets
//! go of a descriptor waits for them at most `CLOSE_DEADLINE`, or, with a lock in its hands, not at all. They are interrupted every
//! `CLOSE_REMINDER`, which ends any wait but FUSE's. What is still open then keeps its thread, and so does all that comes on the same
//! connection after it: a peer costs one thread. A program without such threads closes in place.
//! Limits: as many peers can hold something open as there are threads, or `MAX_UNCLOSED` descriptors; [`is_full`] says when that is so.

use crate::limits::{CLOSE_DEADLINE, CLOSE_REMINDER, MAX_UNCLOSED};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Interrupts a thread that closes. A program needs a handler for it that does nothing; without one it has no effect.
pub const INTERRUPT: Signal = Signal::SIGURG;

static CLOSERS: Closers = Closers {
    state: Mutex::new(State {
        promised: 0,
        threads: Vec::new(),
        ready: VecDeque::new(),
        busy: 0,
        unclosed: 0,
        held: 0,
    }),
    work: Condvar::new(),
};

/// The threads that close, and what waits for them.
#[derive(Debug)]
struct Closers {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many threads there are, or will be.
    promised: usize,
    threads: Vec<Pthread>,
    /// Peers that have something to close, and no thread that does it.
    ready: VecDeque<Arc<Line>>,
    /// Threads that close something.
    busy: usize,
    /// Descriptors that were given and are not closed yet.
    unclosed: usize,
    /// Peers whose descriptors did not close in time.
    held: usize,
}

/// What one peer's descriptors wait in: they are closed one after another.
#[derive(Debug, Default)]
pub(crate) struct Line {
    queue: Mutex<Queue>,
    closed: Condvar,
    /// Something that should be closed by now is not.
    late: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<OwnedFd>,
    /// A thread has the line, or it is in `State::ready`.
    taken: bool,
    /// How many were given, and how many are closed.
    given: u64,
    closed: u64,
}

/// Says that so many threads are going to call [`close_for_others`]. From now on nothing is closed in place.
pub fn promise(threads: usize) {
    let mut state = CLOSERS.state();
    state.promised = state.promised.saturating_add(threads);
}

/// Closes what other threads let go of, for ever. To be promised before.
pub fn close_for_others() {
    CLOSERS.state().threads.push(pthread_self());
    loop {
        CLOSERS.next().close_all();
        CLOSERS.state().busy_no_more();
    }
}

/// Is there nobody left to close what more a peer may send? Then none is to be let in.
#[must_use]
pub fn is_full() -> bool {
    CLOSERS.state().is_full()
}

/// Ends whatever wait a thread that closes is in, if a signal can.
pub fn interrupt() {
    CLOSERS.state().interrupt();
}

impl State {
    fn is_full(&self) -> bool {
        let threads = self.promised;
        threads > 0 && (self.held >= threads || self.unclosed >= MAX_UNCLOSED)
    }

    /// One that has nothing to wait for does not notice.
    fn interrupt(&self) {
        for thread in &self.threads {
            // They never end, so there is no error to be had.
            let _sent = pthread_kill(*thread, INTERRUPT);
        }
    }

    fn busy_no_more(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }
}

impl Closers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next peer with something to close. Meanwhile, where somebody closes, sees to it that this ends.
    fn next(&self) -> Arc<Line> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.ready.pop_front() {
                state.busy = state.busy.saturating_add(1);
                return line;
            }
            if state.busy == 0 {
                let woken = self.work.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let woken = self.work.wait_timeout(state, CLOSE_REMINDER);
            let (back, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
            state = back;
            if timeout.timed_out() && state.busy > 0 {
                state.interrupt();
            }
        }
    }
}

impl Line {
    /// Closes `fd`; returns when that is done, or at the deadline, or at once where an earlier one is late or nobody is left to do it.
    pub(crate) fn close(self: &Arc<Self>, fd: OwnedFd) {
        let Some(mut queue) = self.give(fd) else {
            return;
        };
        CLOSERS.work.notify_one();
        let (begun, mine) = (Instant::now(), queue.given);
        while queue.closed < mine && !self.is_late() {
            let left = CLOSE_DEADLINE.checked_sub(begun.elapsed());
            let Some(left) = left.filter(|_| !is_full()) else {
                self.late.store(true, Ordering::Relaxed);
                let mut state = CLOSERS.state();
                state.held = state.held.saturating_add(1);
                return;
            };
            let (woken, timeout) = self
                .closed
                .wait_timeout(queue, left.min(CLOSE_REMINDER))
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() {
                interrupt();
            }
        }
    }

    /// Has `fd` closed, and does not wait for it.
    pub(crate) fn close_later(self: &Arc<Self>, fd: OwnedFd) {
        if self.give(fd).is_some() {
            // One closes, the others see to it that it does not take long.
            CLOSERS.work.notify_all();
        }
    }

    /// Is something of this peer still open that should have been closed by now?
    pub(crate) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Is so much of this peer still open?
    pub(crate) fn has_unclosed(&self, count: usize) -> bool {
        let queue = self.queue();
        let unclosed = queue.given.saturating_sub(queue.closed);
        usize::try_from(unclosed).is_ok_and(|unclosed| unclosed >= count)
    }

    /// Puts `fd` behind the others. `None`: nobody closes for this program, so it was closed here.
    fn give(self: &Arc<Self>, fd: OwnedFd) -> Option<MutexGuard<'_, Queue>> {
        let mut queue = self.queue();
        let mut state = CLOSERS.state();
        if state.promised == 0 {
            return None;
        }
        state.unclosed = state.unclosed.saturating_add(1);
        queue.waiting.push_back(fd);
        queue.given = queue.given.saturating_add(1);
        if !std::mem::replace(&mut queue.taken, true) {
            state.ready.push_back(Arc::clone(self));
        }
        Some(queue)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self) {
        let mut queue = self.queue();
        while let Some(fd) = queue.waiting.pop_front() {
            drop(queue);
            drop(fd);
            queue = self.queue();
            queue.closed = queue.closed.saturating_add(1);
            self.closed.notify_all();
            let mut state = CLOSERS.state();
            state.unclosed = state.unclosed.saturating_sub(1);
        }
        queue.taken = false;
        if self.late.swap(false, Ordering::Relaxed) {
            let mut state = CLOSERS.state();
            state.held = state.held.saturating_sub(1);
        }
    }
}
