//! A process that was started: how it is watched, ended and reaped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions};

/// How long `ChildProcess::drop` waits for a killed child.
const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It returned this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A running child, or one that has ended and was reaped. Dropping it kills and reaps what still runs.
#[derive(Debug)]
pub struct ChildProcess {
    pid: i32,
    pidfd: OwnedFd,
    ending: Option<Ending>,
    _held: Vec<OwnedFd>,
}

impl ChildProcess {
    pub(super) fn new(pid: i32, pidfd: OwnedFd, held: Vec<OwnedFd>) -> ChildProcess {
        ChildProcess {
            pid,
            pidfd,
            ending: None,
            _held: held,
        }
    }

    /// The process id; meaningful until the child is reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Reaps the child if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<Ending>> {
        if self.ending.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            self.ending =
                status.map(
                    |status| match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Ending::Exited(code),
                        (None, signal) => Ending::Killed(signal.unwrap_or_default()),
                    },
                );
        }
        Ok(self.ending)
    }

    /// Waits until the child has ended, at most `patience`, and reaps it. None: it still runs.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<Ending>> {
        if self.ending.is_none() {
            wait_readable(self.pidfd.as_fd(), patience)?;
        }
        self.try_wait()
    }

    /// Sends a signal; a child that has ended already is fine.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.ending.is_some() {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Kills the child and reaps it, waiting at most `patience`.
    pub fn kill(&mut self, patience: Duration) -> io::Result<Option<Ending>> {
        self.signal(Signal::KILL)?;
        self.wait(patience)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Best effort: a child that cannot be killed is stuck in the kernel, and this process cannot help it.
        let _ = self.kill(KILL_DEADLINE);
    }
}

/// Waits until the descriptor is readable (for a pidfd: until the process has ended).
pub(super) fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
