//! The signals that ask the supervisor to end, as a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask the supervisor to end.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks them for this thread, and for all threads that it starts later.
    pub(super) fn block() -> io::Result<Signals> {
        let mut asked: SigSet = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            asked.add(signal);
        }
        let mut blocked = asked;
        // Putting the terminal's settings back must not stop a supervisor in the background.
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block()?;
        Ok(Signals(SignalFd::with_flags(
            &asked,
            SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
        )?))
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        self.0.read_signal().ok().flatten().is_some()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
