//! A process that a test started: its output, its end, and its death with the test.
//!
//! What it starts in turn dies with it; a test goes on only when all of that is gone, since the next test wants the device.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, kill_process_group, pidfd_open,
    set_child_subreaper,
};

use crate::console::Console;
use crate::deadline::{PROCESS, eventually};
use crate::proc_files;

/// How long the processes of a killed supervisor may take to go: a device is reset on the way.
const FAMILY_END: Duration = Duration::from_secs(90);

/// A running child with its console; killed when dropped, with all that it started.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
    stdout: Console,
    stderr: Console,
}

impl Process {
    /// Starts `command` with pipes on its three standard streams. What it starts in turn becomes this process's child when its
    /// parent dies, so that the end of all of it can be seen.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        set_child_subreaper(Some(getpid())).context("become the parent of orphans")?;
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let pid = Pid::from_child(&child);
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let (stdout, stderr) = (
            Console::collect(name, stdout),
            Console::collect(name, stderr),
        );
        Ok(Self {
            name,
            child,
            pid,
            stdout,
            stderr,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> &Console {
        &self.stdout
    }

    pub fn stderr(&self) -> &Console {
        &self.stderr
    }

    /// The pids of this process and of all that it started and that still run.
    pub fn family(&self) -> Result<Vec<u32>> {
        proc_files::family(self.pid())
    }

    /// Writes a line to the process's standard input.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Writes bytes to the process's standard input.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is a pipe")?;
        stdin
            .write_all(bytes)
            .with_context(|| format!("write {bytes:02x?} to {}", self.name))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Waits for the end of the process and of its output.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).context("pidfd_open")?;
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs())?,
            tv_nsec: limit.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? == 0 {
            bail!(
                "{} still runs after {limit:?}; its stderr:\n{}its stdout ends:\n{}",
                self.name,
                self.stderr.text(),
                crate::console::tail(&self.stdout.text())
            );
        }
        let status = self.child.wait()?;
        self.stdout.wait_for_end(limit)?;
        self.stderr.wait_for_end(limit)?;
        Ok(status)
    }
}

/// Stops a process (SIGSTOP), and returns when none of its threads runs: the signal is one thread's, which stops the others later.
pub fn stop(pid: u32) -> Result<()> {
    let process = Pid::from_raw(pid.cast_signed()).context("a process")?;
    kill_process(process, Signal::STOP).with_context(|| format!("stop process {pid}"))?;
    eventually("a process that has stopped", PROCESS, || {
        let states = proc_files::status_of_threads(pid, "State").ok()?;
        (states == ["T (stopped)"]).then_some(())
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.family().unwrap_or_default();
        if family.is_empty() && matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Errors mean that nobody is left, which is what we want.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
        let gone = || self.family().ok()?.is_empty().then_some(());
        if let Err(error) = eventually("the end of what the test started", FAMILY_END, gone) {
            eprintln!("{error:#}: {:?}", self.family());
        }
    }
}
