//! A QEMU newer than the lab's, from the lab's cache (scripts/peer-qemu): a peer that we did not write.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What scripts/peer-qemu prints.
#[derive(Debug)]
pub struct Machine {
    /// Runs it; arguments may be added.
    pub command: Command,
    /// A kernel that has drivers for all devices.
    pub kernel: String,
}

/// Fetches it where it is missing, and writes an initrd for its guest.
pub fn machine(initrd: &str) -> Result<Machine> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/peer-qemu");
    let made = Command::new(script).arg(initrd).output()?;
    let errors = String::from_utf8_lossy(&made.stderr).into_owned();
    ensure!(
        made.status.success(),
        "no QEMU with vfio-user-pci: {errors}"
    );
    let parts: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let words = parts["command"].as_array().context("command")?;
    let words: Vec<String> = words.iter().filter_map(text).collect();
    let (program, arguments) = words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, value) in parts["environment"].as_object().context("environment")? {
        command.env(name, text(value).context("a value")?);
    }
    let kernel = text(&parts["kernel"]).context("kernel")?;
    Ok(Machine { command, kernel })
}
