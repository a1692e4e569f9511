//! Runs a program that has to refuse what it is given: one line on stderr, a bad status, in time, nothing left.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::deadline::PROCESS;
use crate::process::Process;
use crate::programs;

/// How a program refused.
#[derive(Debug)]
pub struct Refusal {
    pub message: String,
    pub status: i32,
    pub took: Duration,
}

/// Runs `bulkhead-vmm` with `arguments`.
pub fn of_vmm(arguments: &[&str]) -> Result<Refusal> {
    of(Command::new(programs::find(programs::VMM)?).args(arguments))
}

/// Runs `bulkhead-device-server` with `arguments`.
pub fn of_device_server(arguments: &[&str]) -> Result<Refusal> {
    of(Command::new(programs::find(programs::DEVICE_SERVER)?).args(arguments))
}

/// Runs `command`, which must end by itself with a message and leave no process.
pub fn of(command: &mut Command) -> Result<Refusal> {
    let started = Instant::now();
    let mut process = Process::start("refusing program", command)?;
    let status = process.wait(PROCESS)?;
    let took = started.elapsed();
    let message = process.stderr().text();
    let left = process.family()?;
    ensure!(
        !status.success(),
        "{command:?} ended with {status}, it should refuse; its stderr:\n{message}"
    );
    let status = status.code();
    ensure!(
        status.is_some(),
        "{command:?} was killed by a signal; its stderr:\n{message}"
    );
    ensure!(left.is_empty(), "{command:?} left the processes {left:?}");
    ensure!(
        message.lines().count() == 1,
        "{command:?} should say one line on stderr, and said:\n{message}"
    );
    Ok(Refusal {
        message: message.trim().to_owned(),
        status: status.unwrap_or_default(),
        took,
    })
}

impl Refusal {
    /// The message names all of `words`.
    pub fn names(&self, words: &[&str]) -> Result<&Self> {
        for word in words {
            ensure!(
                self.message.contains(word),
                "the message should name {word:?}: {}",
                self.message
            );
        }
        Ok(self)
    }

    /// It came within `limit`.
    pub fn within(&self, limit: Duration) -> Result<&Self> {
        ensure!(
            self.took < limit,
            "it took {:?}, more than {limit:?}: {}",
            self.took,
            self.message
        );
        Ok(self)
    }
}
