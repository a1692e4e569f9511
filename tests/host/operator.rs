//! Runs `bulkhead-device-server host ...` as an operator would.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use harness::programs;

/// What a command said, and its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) errors: String,
    pub(crate) status: Option<i32>,
}

impl Answer {
    /// It succeeded: what it said.
    pub(crate) fn succeeded(self) -> Result<String> {
        ensure!(self.status == Some(0), "it should succeed: {self:?}");
        Ok(self.text)
    }

    /// It refused with `status`, in one line that has all of `words`.
    pub(crate) fn refused(self, status: i32, words: &[&str]) -> Result<()> {
        ensure!(
            self.status == Some(status),
            "it should end with {status}: {self:?}"
        );
        ensure!(self.text.is_empty(), "nothing was done: {self:?}");
        ensure!(self.errors.lines().count() == 1, "one line: {self:?}");
        for word in words {
            ensure!(
                self.errors.contains(word),
                "it should say {word:?}: {self:?}"
            );
        }
        Ok(())
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Answer {
        Answer {
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status.code(),
        }
    }
}

/// `bulkhead-device-server host` with `words`, ready to run.
pub(crate) fn command(words: &str) -> Result<Command> {
    let mut command = Command::new(programs::find(programs::DEVICE_SERVER)?);
    command.arg("host").args(words.split_whitespace());
    Ok(command)
}

/// Runs `bulkhead-device-server host` with `words`.
pub(crate) fn host(words: &str) -> Result<Answer> {
    let output = command(words)?.output();
    Ok(output.with_context(|| format!("run host {words}"))?.into())
}
