//! KVM's own statistics of a VM, from debugfs (/sys/kernel/debug/kvm/PID-FD/). They count since the VM was made.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

const FOLDER: &str = "/sys/kernel/debug/kvm";

/// The counters that tests and figures use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvmStatistics {
    /// Exits to user space for a memory access that no slot and no in-kernel device answers.
    pub mmio_exits: u64,
    /// Exits to user space for port I/O.
    pub io_exits: u64,
    /// Exits from guest mode of any kind; most are handled in the kernel.
    pub exits: u64,
}

impl KvmStatistics {
    /// Of the VM that process `pid` made.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = folder(pid)?;
        let counter = |name: &str| -> Result<u64> {
            let path = folder.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        Ok(Self {
            mmio_exits: counter("mmio_exits")?,
            io_exits: counter("io_exits")?,
            exits: counter("exits")?,
        })
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            mmio_exits: self.mmio_exits - earlier.mmio_exits,
            io_exits: self.io_exits - earlier.io_exits,
            exits: self.exits - earlier.exits,
        }
    }
}

fn folder(pid: u32) -> Result<PathBuf> {
    let start = format!("{pid}-");
    for entry in fs::read_dir(FOLDER).with_context(|| format!("read {FOLDER} (debugfs)"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("{FOLDER} has no VM of process {pid}")
}
