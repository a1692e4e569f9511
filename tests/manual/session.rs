//! A root shell on the host, as the operator has one: what a command sets, starts and returns is there for the next one.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::process::Process;
use harness::scratch::Scratch;

/// For one command: a guest may boot, use a device and power off in it.
const COMMAND: Duration = Duration::from_secs(150);

/// One shell. What it started dies with it.
#[derive(Debug)]
pub(crate) struct Session {
    shell: Process,
    outputs: Scratch,
    count: usize,
    status: i32,
    is_stuck: bool,
}

/// What a command printed on both streams, and its status.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) printed: String,
    pub(crate) status: i32,
}

impl Session {
    pub(crate) fn start() -> Result<Session> {
        Ok(Session {
            shell: Process::start("shell", &mut Command::new("bash"))?,
            outputs: Scratch::new()?,
            count: 0,
            status: 0,
            is_stuck: false,
        })
    }

    /// Whether a command has not ended, so that no other can be run.
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Runs a command to its end, or until the shell has put it into the background.
    pub(crate) fn run(&mut self, command: &str) -> Result<Outcome> {
        self.count += 1;
        // One file for each command: what stays in the background goes on to write to its own.
        let output = self.outputs.file(&self.count.to_string());
        let (status, count) = (self.status, self.count);
        // The status of the command before is what `echo $?` shows.
        self.shell.write_line(&format!(
            "(exit {status})\n{{ {command}\n}} >{output} 2>&1 </dev/null; echo DONE {count} $?"
        ))?;
        let done = self
            .shell
            .stdout()
            .wait_for_line(&format!("DONE {count} "), COMMAND);
        self.is_stuck = done.is_err();
        let read = || fs::read_to_string(&output).unwrap_or_default();
        let done = done.with_context(|| {
            let shell = self.shell.stderr().text();
            format!("{command}: it printed:\n{}{shell}", read())
        })?;
        self.status = done.parse()?;
        Ok(Outcome {
            printed: read(),
            status: self.status,
        })
    }
}
