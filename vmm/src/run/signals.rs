//! SIGTERM, SIGINT and SIGHUP end the machine in order: they are blocked in all threads and read from a descriptor.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::ExitReason;
use crate::event_loop::{EventLoop, Interest};

#[derive(Debug)]
pub(super) struct Signals {
    fd: Arc<SignalFd>,
}

/// Blocks the signals in this thread and those that it starts from now on.
pub(super) fn block() -> io::Result<Signals> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .for_each(|signal| set.add(signal));
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok(Signals { fd: Arc::new(fd) })
}

impl Signals {
    /// Stops the loop with [`ExitReason::Signal`] when one comes.
    pub(super) fn watch(
        &self,
        events: &EventLoop,
        ended: Arc<Mutex<Option<ExitReason>>>,
    ) -> io::Result<()> {
        let fd = Arc::clone(&self.fd);
        let ready = move |events: &EventLoop| {
            if let Ok(Some(signal)) = fd.read_signal() {
                let number = i32::try_from(signal.ssi_signo).unwrap_or(i32::MAX);
                *ended.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(ExitReason::Signal(number));
                events.stop();
            }
        };
        let watched = Arc::clone(&self.fd);
        events
            .add(watched, Interest::Readable, Arc::new(ready))
            .map(drop)
    }
}
