//! Something that the kernel may take its time with, done by a process of its own: with a deadline, and with words if it fails.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::Signal;
use sandbox::prepare::{Child, ChildProcess, Ending, PrepareError};

use super::deadline;
use crate::one_line::one_line;

/// What our programs' lines begin with.
const PREFIXES: [&str; 2] = ["bulkhead-device-server: ", "bulkhead-vmm: "];
/// What is kept of what it says, in bytes.
const MAX_WORDS_BYTES: u64 = 4096;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Order {
    /// The process; its standard error is taken.
    pub(super) child: Child,
    /// How long it may take.
    pub(super) limit: Duration,
    /// What is said of one that takes longer.
    pub(super) late: &'static str,
}

/// It could not be begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum ErrandError {
    #[error("make a memfd")]
    Words(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] PrepareError),
}

/// The running process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Errand {
    process: ChildProcess,
    words: File,
    deadline: Instant,
    limit: Duration,
    late: &'static str,
}

impl Errand {
    pub(super) fn start(order: Order) -> Result<Errand, ErrandError> {
        let failed = |error: io::Error| ErrandError::Words(error);
        let words = rustix::fs::memfd_create("errand", MemfdFlags::CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let copy = words.try_clone().map_err(failed)?;
        let process = order.child.fd(2, copy).spawn()?;
        Ok(Errand {
            process,
            words: File::from(words),
            deadline: Instant::now() + order.limit,
            limit: order.limit,
            late: order.late,
        })
    }

    /// What to poll.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Nobody waits for it any more: it is late from now on.
    pub(super) fn give_up(&mut self) {
        self.deadline = Instant::now();
    }

    /// Whether it is still there. One that was killed and is stuck in the kernel is.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// `None`: it still runs. One that is late is killed.
    pub(super) fn outcome(&mut self, now: Instant) -> Option<Result<(), String>> {
        match self.process.try_wait() {
            Ok(Some(Ending::Exited(0))) => Some(Ok(())),
            Ok(Some(ending)) => Some(Err(self.reason(ending))),
            Ok(None) if now < self.deadline => None,
            Ok(None) => {
                // One that is stuck in the kernel ends when the kernel lets it.
                let _sent = self.process.signal(Signal::KILL);
                let limit = self.limit.as_secs();
                Some(Err(format!("{} within {limit} s", self.late)))
            }
            Err(error) => Some(Err(one_line(&error))),
        }
    }

    /// Waits for its end, where nothing else is to be done.
    pub(super) fn wait(&mut self) -> Result<(), String> {
        loop {
            if let Some(outcome) = self.outcome(Instant::now()) {
                return outcome;
            }
            let left = Timespec::try_from(deadline::left(self.deadline)).ok();
            let mut fds = [PollFd::from_borrowed_fd(
                self.process.pidfd(),
                PollFlags::IN,
            )];
            // Whatever it says, the process is asked.
            let _ready = rustix::event::poll(&mut fds, left.as_ref());
        }
    }

    fn reason(&mut self, ending: Ending) -> String {
        let mut words = Vec::new();
        let start = self.words.seek(SeekFrom::Start(0));
        let read = start.and_then(|_| (&self.words).take(MAX_WORDS_BYTES).read_to_end(&mut words));
        let text = String::from_utf8_lossy(&words);
        let line = text.lines().find(|line| !line.trim().is_empty());
        match (read, line) {
            (Ok(_), Some(line)) => without_prefix(line.trim()).to_owned(),
            (Ok(_) | Err(_), _) => format!("it ended with {ending}"),
        }
    }
}

fn without_prefix(line: &str) -> &str {
    let cut = PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix));
    cut.unwrap_or(line)
}
