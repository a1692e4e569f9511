//! A helper process for writes to sysfs that block for as long as a driver takes: it may outlive the caller's patience.
//!
//! The helper is this program again, `host step ...`. It has a socket as stdin and the device's lock as stdout. It writes,
//! says "done" or the error number, and waits for "taken". If the caller has given up by then (end of stream), the helper
//! puts the device back: the caller cannot, since a device that a driver works on cannot be written to.
//! Limits: `Patience::limit`, and progress on stderr every `PROGRESS`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::PciAddress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::device::HostDevice;
use super::kernel::{Step, StepError, carry_out, override_path, write};
use super::notes::{Before, Lock};
use super::roots::Roots;

/// How often the operator is told that we still wait.
const PROGRESS: Duration = Duration::from_secs(2);
const DONE: &str = "done";
const TAKEN: &str = "taken";

/// How long a driver may take, and what interrupts the wait.
#[derive(Debug)]
pub(super) struct Patience {
    /// The deadline of one step.
    pub(super) limit: Duration,
    signals: Option<SignalFd>,
}

impl Patience {
    /// Waits up to `limit`. From here on Ctrl-C and SIGTERM only end a wait, so that nothing is left half bound.
    pub(super) fn new(limit: Duration) -> io::Result<Patience> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Patience {
            limit,
            signals: Some(SignalFd::with_flags(&set, flags)?),
        })
    }
}

/// Does `step` in a helper process and waits for its end.
pub(super) fn run(
    address: PciAddress,
    step: Step,
    before: &Before,
    lock: &Lock,
    patience: &Patience,
) -> Result<(), StepError> {
    let (ours, theirs) = UnixStream::pair().map_err(StepError::Helper)?;
    let words = match step {
        Step::Unbind => vec!["unbind".to_owned()],
        Step::Probe => vec!["probe".to_owned()],
        Step::VirtualFunctions { from, to } => {
            vec!["vfs".to_owned(), from.to_string(), to.to_string()]
        }
    };
    let lock = lock.share().map_err(StepError::Helper)?;
    let mut helper = Command::new("/proc/self/exe")
        .args(["host", "step"])
        .arg(address.to_string())
        .args(["--before-override", &before.driver_override])
        .args(["--before-driver", before.driver.as_deref().unwrap_or("")])
        .args(words)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(lock)))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(StepError::Helper)?;
    wait(address, &ours, patience)?;
    let answer = answer(&ours);
    // It ends by itself; without this word it would undo what it did.
    let _ = (&ours).write_all(format!("{TAKEN}\n").as_bytes());
    let _ = helper.wait();
    answer
}

/// Waits until the helper has something to say.
fn wait(address: PciAddress, ours: &UnixStream, patience: &Patience) -> Result<(), StepError> {
    let start = Instant::now();
    loop {
        let waited = start.elapsed();
        let Some(left) = patience.limit.checked_sub(waited) else {
            return Err(StepError::TooSlow);
        };
        if waited >= PROGRESS {
            let line = format!(
                "{address}: waiting for its driver, {} of at most {} s\n",
                waited.as_secs(),
                patience.limit.as_secs()
            );
            // In one write: two callers may share a terminal.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        let timeout = Timespec::try_from(left.min(PROGRESS))
            .map_err(|_| StepError::Helper(io::Error::other("the wait is too long")))?;
        let mut sources = vec![PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN)];
        if let Some(signals) = &patience.signals {
            sources.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        }
        match poll(&mut sources, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) if sources.first().is_some_and(|fd| !fd.revents().is_empty()) => return Ok(()),
            Ok(_) => {
                // Taken off the list, so that it does not interrupt what puts the device back.
                if let Some(signals) = &patience.signals {
                    let _ = signals.read_signal();
                }
                return Err(StepError::Interrupted);
            }
            Err(errno) => return Err(StepError::Helper(errno.into())),
        }
    }
}

fn answer(ours: &UnixStream) -> Result<(), StepError> {
    let mut line = String::new();
    BufReader::new(ours)
        .read_line(&mut line)
        .map_err(StepError::Helper)?;
    match line.trim() {
        DONE => Ok(()),
        other => Err(match other.parse() {
            Ok(number) => StepError::Write(io::Error::from_raw_os_error(number)),
            Err(_) => StepError::Helper(io::Error::other("the helper process ended")),
        }),
    }
}

/// The helper process itself.
pub(super) fn be_helper(
    roots: &Roots,
    address: PciAddress,
    step: Step,
    before: &Before,
) -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let socket = UnixStream::from(socket);
    let written = carry_out(&roots.sysfs, address, step);
    let said = match &written {
        Ok(()) => DONE.to_owned(),
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO).to_string(),
    };
    // Fails if the caller has given up, which the next read shows as well.
    let _ = (&socket).write_all(format!("{said}\n").as_bytes());
    let mut line = String::new();
    let taken = BufReader::new(&socket).read_line(&mut line).is_ok() && line.trim() == TAKEN;
    if !taken {
        // Nobody is left to tell; what fails here shows in `host list`.
        let _ = undo(roots, address, step, written.is_ok(), before);
    }
    ExitCode::SUCCESS
}

fn undo(
    roots: &Roots,
    address: PciAddress,
    step: Step,
    done: bool,
    before: &Before,
) -> io::Result<()> {
    match step {
        Step::Unbind | Step::Probe => put_back(roots, address, before),
        Step::VirtualFunctions { from, to } if done => {
            let back = Step::VirtualFunctions { from: to, to: from };
            carry_out(&roots.sysfs, address, back)
        }
        Step::VirtualFunctions { .. } => Ok(()),
    }
}

fn put_back(roots: &Roots, address: PciAddress, before: &Before) -> io::Result<()> {
    let sysfs = &roots.sysfs;
    let set_override = |driver: &str| write(&override_path(sysfs, address), &format!("{driver}\n"));
    let device = HostDevice::read(sysfs, address).map_err(io::Error::other)?;
    if device.driver != before.driver {
        set_override(before.override_to_probe())?;
        if device.driver.is_some() {
            carry_out(sysfs, address, Step::Unbind)?;
        }
        if before.driver.is_some() {
            carry_out(sysfs, address, Step::Probe)?;
        }
    }
    set_override(&before.driver_override)
}
