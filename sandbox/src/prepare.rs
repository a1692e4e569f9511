//! The parent's side of starting a process: exec with an explicit descriptor list.
//!
//! A child gets its program, its arguments, its environment and the descriptors listed, each at its fixed number,
//! and nothing else of this process. Standard input and output are /dev/null and standard error is inherited,
//! unless they are listed. The child is killed when the thread that spawned it ends (PR_SET_PDEATHSIG): spawn from
//! a thread that lives as long as the children may, in practice the main thread.
//! A pid namespace and a cgroup can only be given at birth, so they are given here; everything else a child does for itself
//! (`enter`).
//! Limits: `MAX_FD_NUMBER` as the highest target; `EXEC_DEADLINE` from clone to exec.

mod process;

pub use self::process::{ChildProcess, Ending};
pub use crate::sys::PidNamespace;

use std::ffi::{CString, OsString, c_char, c_uint};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::PidfdFlags;

use self::process::wait_readable;
use crate::sys::{self, ExecPlan, Step, UserMaps};

/// Highest number a descriptor can be placed at. The soft limit of open files is 1024 almost everywhere, and
/// the child copies its list once above the highest target.
pub const MAX_FD_NUMBER: RawFd = 400;
/// How long a child may take from clone to exec. Loading a program from a dead network mount is what can hang.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

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
    /// Which processes it sees.
    pub pid_namespace: PidNamespace,
    /// Whether it may start without that namespace where the kernel refuses one.
    pub best_effort: bool,
    /// The control group it starts in: an open folder of a cgroup v2 hierarchy.
    pub cgroup: Option<OwnedFd>,
    /// What this process keeps open for as long as it has the child's `ChildProcess`.
    pub held: Vec<OwnedFd>,
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
    #[error("start a process for {program}{with}")]
    Clone {
        /// The file that was to be executed.
        program: PathBuf,
        /// What was asked for it that not every kernel and user has.
        with: &'static str,
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

impl Child {
    /// A child with this program and these arguments, an empty environment and no descriptors.
    pub fn new(program: impl Into<PathBuf>, args: Vec<OsString>) -> Self {
        Self {
            program: program.into(),
            args,
            environment: Vec::new(),
            fds: Vec::new(),
            new_session: false,
            pid_namespace: PidNamespace::Shared,
            best_effort: false,
            cgroup: None,
            held: Vec::new(),
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

        let with = self.special_wishes();
        let failed = |source| PrepareError::Clone {
            program: self.program.clone(),
            with,
            source,
        };
        let maps = UserMaps::new();
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
            pid_namespace: self.pid_namespace,
            user_maps: &maps,
            cgroup: self.cgroup.as_ref().map(AsFd::as_fd),
        };
        let mut started = sys::clone_and_exec(&mut plan);
        if started.is_err() && self.best_effort && self.pid_namespace != PidNamespace::Shared {
            plan.pid_namespace = PidNamespace::Shared;
            started = sys::clone_and_exec(&mut plan);
        }
        let (pid, pidfd) = started.map_err(failed)?;
        let process = ChildProcess::new(pid, pidfd, std::mem::take(&mut self.held));
        drop(child_report);
        self.exec_result(report)?;
        Ok(process)
    }

    /// In words, for the error: which of them the kernel misses it does not say.
    fn special_wishes(&self) -> &'static str {
        let own = self.pid_namespace != PidNamespace::Shared;
        match (own, self.cgroup.is_some()) {
            (false, false) => "",
            (true, false) => " in a pid namespace of its own",
            (false, true) => " in its cgroup",
            (true, true) => " in a pid namespace of its own and in its cgroup",
        }
    }

    /// Standard streams that are not listed: /dev/null for input and output, this process's own for errors.
    fn complete_standard_streams(&mut self) -> Result<(), PrepareError> {
        let failed = |source| PrepareError::Clone {
            program: self.program.clone(),
            with: "",
            source,
        };
        let mut streams = Vec::new();
        for number in 0..=2 {
            if self.fds.iter().any(|fd| fd.number == number) {
                continue;
            }
            let fd = if number == 2 {
                standard_error().map_err(failed)?
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
            with: "",
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

/// This process's own. A terminal is opened anew, for writing only: whoever takes the child over must not read what is typed.
fn standard_error() -> io::Result<OwnedFd> {
    let own = io::stderr();
    if rustix::termios::isatty(&own) {
        let no_control = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        let terminal = File::options()
            .write(true)
            .custom_flags(no_control)
            .open("/proc/self/fd/2");
        if let Ok(terminal) = terminal {
            return Ok(terminal.into());
        }
    }
    own.as_fd().try_clone_to_owned()
}

fn action(step: u8) -> &'static str {
    const STEPS: [(Step, &str); 9] = [
        (Step::DeathSignal, "tie the child's life to this process"),
        (Step::ParentGone, "see this process still alive"),
        (Step::Session, "start a session"),
        (Step::Signals, "reset the signal mask"),
        (Step::CopyFd, "copy a file descriptor"),
        (Step::PlaceFd, "place a file descriptor"),
        (Step::CloseRest, "close all other file descriptors"),
        (Step::User, "map its user into a user namespace"),
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
