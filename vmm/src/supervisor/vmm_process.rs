//! The VMM's process: how it is asked to stop, and killed when it does not.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::process::Signal;
use sandbox::prepare::{ChildProcess, Ending};

use super::deadline;

/// The VMM process.
#[derive(Debug)]
pub(super) struct VmmProcess {
    process: ChildProcess,
    asked: Asked,
    deadline: Option<Instant>,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// To stop, for the operator.
    ToStop,
    /// It was killed, for the operator.
    Killed,
    /// It was killed for what it did.
    Punished,
}

impl VmmProcess {
    pub(super) fn new(process: ChildProcess) -> VmmProcess {
        VmmProcess {
            process,
            asked: Asked::Nothing,
            deadline: None,
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }

    /// When [`Self::is_stuck`] has to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the operator knows why it ends.
    pub(super) fn was_asked_to_stop(&self) -> bool {
        match self.asked {
            Asked::Nothing | Asked::Punished => false,
            Asked::ToStop | Asked::Killed => true,
        }
    }

    /// How it ended, if it has.
    pub(super) fn ending(&mut self) -> Option<Ending> {
        self.process.try_wait().ok().flatten()
    }

    /// The operator wants it to end: the first time it is asked, the second time it is killed.
    pub(super) fn stop(&mut self) {
        match self.asked {
            Asked::Nothing => {
                self.asked = Asked::ToStop;
                self.deadline = Some(Instant::now() + deadline::VMM_STOP);
                self.signal(Signal::TERM);
            }
            Asked::ToStop => self.kill_as(Asked::Killed),
            Asked::Killed | Asked::Punished => {}
        }
    }

    /// It does what it must not.
    pub(super) fn kill(&mut self) {
        self.kill_as(Asked::Punished);
    }

    /// Kills it when it is late. True if even that did not help.
    pub(super) fn is_stuck(&mut self, now: Instant) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return false;
        }
        match self.asked {
            Asked::Nothing => false,
            Asked::ToStop => {
                tracing::warn!(
                    "The VMM did not stop within {} s and is killed",
                    deadline::VMM_STOP.as_secs()
                );
                self.kill_as(Asked::Killed);
                false
            }
            Asked::Killed | Asked::Punished => {
                tracing::error!(
                    pid = self.process.pid(),
                    "The VMM was killed and does not end: it is stuck in the kernel"
                );
                true
            }
        }
    }

    fn kill_as(&mut self, asked: Asked) {
        self.asked = asked;
        self.deadline = Some(Instant::now() + deadline::KILLED);
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            tracing::error!(%error, pid = self.process.pid(), "The VMM cannot be sent a signal");
        }
    }
}
