//! A control group with little memory, as an operator makes one for -sandbox-cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";
const MEMORY_BYTES: &str = "67108864";

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct ControlGroup(PathBuf);

/// Why there is none here, or None.
pub(crate) fn why_not() -> Option<&'static str> {
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.controllers"));
    let has = controllers.is_ok_and(|all| all.split_whitespace().any(|one| one == "memory"));
    (!has).then_some("/sys/fs/cgroup is no cgroup v2 hierarchy with a memory controller")
}

impl ControlGroup {
    pub(crate) fn new() -> Result<ControlGroup> {
        fs::write(format!("{ROOT}/cgroup.subtree_control"), "+memory")
            .context("share memory out to control groups")?;
        let path = PathBuf::from(format!("{ROOT}/bulkhead-isolation-{}", std::process::id()));
        fs::create_dir(&path)?;
        let group = ControlGroup(path);
        fs::write(group.0.join("memory.max"), MEMORY_BYTES)?;
        // There is none where the kernel has no swap.
        let _none = fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Puts this process into the group that its parent made.
pub(crate) fn join() -> Result<()> {
    let group = std::env::var("CONTROL_GROUP").context("no control group")?;
    fs::write(format!("{group}/cgroup.procs"), "0")?;
    Ok(())
}
