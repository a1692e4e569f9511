//! The parent's side of starting a process: exec with an explicit descriptor list.
//!
//! A child gets its program, its arguments, its environment and the descriptors listed, each at its fixed number,
//! and nothing else of this process. Standard input and output are /dev/null and standard error is inherited,
//! unless they are listed. The child is killed when the thread that spawned it ends (PR_SET_PDEATHSIG): spawn from
//! a thread that lives as long as the children may, in practice the main thread.
//! Not here: namespaces, limits and filters.
//! Limits: `MAX_FD_NUMBER` as the highest target; `EXEC_DEADLINE` from clone to exec.

use std::ffi::{CString, OsString, c_char, c_uint};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::sys::{self, ExecPlan, Step};

/// Highest number a descriptor can be placed at. The soft limit of open files is 1024 almost everywhere, and
/// the child copies its list once above the highest target.
pub const MAX_FD_NUMBER: RawFd = 400;
/// How long a child may take from clone to exec. Loading a program from a dead network mount is what can hang.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);
/// How long `ChildProcess::drop` waits for a killed child.
const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// One descriptor for the child.
#[derive(Debug)]
pub struct ChildFd {
    /// The number the child finds it at.
    pub number: i32,
    /// What is placed there. Closed in the parent once the child runs.
    pub fd: OwnedFd,
}

/// A process to start.
#[derive(Debug)]
pub struct Child {
    /// The file to execute; not looked up in PATH.
    pub program: PathBuf,
    /// The arguments after the program's own name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The descriptors it gets.
    pub fds: Vec<ChildFd>,
    /// Whether it leaves this session, so that signals from the terminal do not reach it.
    pub new_session: bool,
    /// Whether it sees no process but itself. Needs privilege.
    pub new_pid_namespace: bool,
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A string that cannot be passed to a program.
    #[error("the program, an argument or a variable of {program} contains a zero byte")]
    ZeroByte {
        /// The file that was to be executed.
        program: PathBuf,
    },
    /// The descriptor list is wrong.
    #[error("descriptor number {number} for {program} is taken twice or above {MAX_FD_NUMBER}")]
    BadNumber {
        /// The file that was to be executed.
        program: PathBuf,
        /// The number in question.
        number: RawFd,
    },
    /// The kernel has no process for us.
    #[error("start a process for {program}")]
    Clone {
        /// The file that was to be executed.
        program: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The child could not get ready or the program could not be executed.
    #[error("{action} for {program}")]
    Child {
        /// What the child was doing.
        action: &'static str,
        /// The file that was to be executed.
        program: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The child did not reach exec in time.
    #[error("{program} did not start within {} s", EXEC_DEADLINE.as_secs())]
    Timeout {
        /// The file that was to be executed.
        program: PathBuf,
    },
}

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

impl Child {
    /// A child with this program and these arguments, an empty environment and no descriptors.
    pub fn new(program: impl Into<PathBuf>, args: Vec<OsString>) -> Self {
        Self {
            program: program.into(),
            args,
            environment: Vec::new(),
            fds: Vec::new(),
            new_session: false,
            new_pid_namespace: false,
        }
    }

    /// Adds a descriptor.
    #[must_use]
    pub fn fd(mut self, number: RawFd, fd: OwnedFd) -> Self {
        self.fds.push(ChildFd { number, fd });
        self
    }

    /// Starts the process; returns once its program runs.
    pub fn spawn(mut self) -> Result<ChildProcess, PrepareError> {
        self.complete_standard_streams()?;
        let mut moves: Vec<(RawFd, RawFd)> = self
            .fds
            .iter()
            .map(|fd| (fd.fd.as_raw_fd(), fd.number))
            .collect();
        let gaps = self.gaps()?;
        let zero_byte = || PrepareError::ZeroByte {
            program: self.program.clone(),
        };
        let program = CString::new(self.program.as_os_str().as_bytes()).map_err(|_| zero_byte())?;
        let argv = std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str));
        let argv: Vec<CString> = argv
            .map(|text| CString::new(text.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| zero_byte())?;
        let envp = self
            .environment
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let envp: Vec<CString> = envp
            .map(CString::new)
            .collect::<Result<_, _>>()
            .map_err(|_| zero_byte())?;
        let (argv, envp) = (pointers(&argv), pointers(&envp));

        let failed = |source| PrepareError::Clone {
            program: self.program.clone(),
            source,
        };
        let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|errno| failed(errno.into()))?;
        let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let mut plan = ExecPlan {
            program: &program,
            argv: &argv,
            envp: &envp,
            scratch_base: moves
                .iter()
                .map(|(_, target)| target + 1)
                .max()
                .unwrap_or(3)
                .max(3),
            moves: &mut moves,
            gaps: &gaps,
            parent: parent.as_fd(),
            report: child_report.as_fd(),
            new_session: self.new_session,
            new_pid_namespace: self.new_pid_namespace,
        };
        let (pid, pidfd) = sys::clone_and_exec(&mut plan).map_err(failed)?;
        let process = ChildProcess {
            pid,
            pidfd,
            ending: None,
        };
        drop(child_report);
        self.exec_result(report)?;
        Ok(process)
    }

    /// Standard streams that are not listed: /dev/null for input and output, this process's own for errors.
    fn complete_standard_streams(&mut self) -> Result<(), PrepareError> {
        let failed = |source| PrepareError::Clone {
            program: self.program.clone(),
            source,
        };
        let mut streams = Vec::new();
        for number in 0..=2 {
            if self.fds.iter().any(|fd| fd.number == number) {
                continue;
            }
            let fd = if number == 2 {
                io::stderr().as_fd().try_clone_to_owned().map_err(failed)?
            } else {
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/null")
                    .map_err(failed)?
                    .into()
            };
            streams.push(ChildFd { number, fd });
        }
        self.fds.extend(streams);
        Ok(())
    }

    /// The number ranges that hold no target.
    fn gaps(&self) -> Result<Vec<(c_uint, c_uint)>, PrepareError> {
        let mut numbers: Vec<RawFd> = self.fds.iter().map(|fd| fd.number).collect();
        numbers.sort_unstable();
        let mut gaps = Vec::new();
        let mut next: c_uint = 0;
        for number in numbers {
            let bad = || PrepareError::BadNumber {
                program: self.program.clone(),
                number,
            };
            let unsigned = c_uint::try_from(number).map_err(|_| bad())?;
            if unsigned < next || number > MAX_FD_NUMBER {
                return Err(bad());
            }
            if unsigned > next {
                gaps.push((next, unsigned - 1));
            }
            next = unsigned + 1;
        }
        gaps.push((next, c_uint::MAX));
        Ok(gaps)
    }

    /// Waits for exec, which closes the pipe, or for the child's report of why there will be none.
    fn exec_result(&self, report: OwnedFd) -> Result<(), PrepareError> {
        let failed = |source| PrepareError::Clone {
            program: self.program.clone(),
            source,
        };
        if !wait_readable(report.as_fd(), EXEC_DEADLINE).map_err(failed)? {
            return Err(PrepareError::Timeout {
                program: self.program.clone(),
            });
        }
        let mut message = [0; 5];
        let length = File::from(report).read(&mut message).map_err(failed)?;
        if length < message.len() {
            return Ok(());
        }
        let [step, errno @ ..] = message;
        let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        Err(PrepareError::Child {
            action: action(step),
            program: self.program.clone(),
            source,
        })
    }
}

fn action(step: u8) -> &'static str {
    const STEPS: [(Step, &str); 8] = [
        (Step::DeathSignal, "tie the child's life to this process"),
        (Step::ParentGone, "see this process still alive"),
        (Step::Session, "start a session"),
        (Step::Signals, "reset the signal mask"),
        (Step::CopyFd, "copy a file descriptor"),
        (Step::PlaceFd, "place a file descriptor"),
        (Step::CloseRest, "close all other file descriptors"),
        (Step::Exec, "execute the program"),
    ];
    STEPS
        .iter()
        .find(|(known, _)| *known as u8 == step)
        .map_or("prepare the child", |(_, action)| action)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

/// Waits until the descriptor is readable (for a pidfd: until the process has ended).
fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
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

/// A running child, or one that has ended and was reaped. Dropping it kills and reaps what still runs.
#[derive(Debug)]
pub struct ChildProcess {
    pid: i32,
    pidfd: OwnedFd,
    ending: Option<Ending>,
}

impl ChildProcess {
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
