//! Where the programs under test are.
//!
//! In the lab they are on PATH. On L0 they are in BULKHEAD_BIN_DIR (scripts/test sets it), else beside the test's
//! own executable in cargo's target folder.

use std::path::PathBuf;

use anyhow::{Result, bail};

pub const VMM: &str = "bulkhead-vmm";
pub const DEVICE_SERVER: &str = "bulkhead-device-server";
/// The vfio_user crate as a peer.
pub const CRATE_PEER: &str = "bulkhead-crate-peer";
/// Our own program for use inside a guest, statically linked.
pub const GUEST_PROBE: &str = "guest-probe";

/// True inside the lab machine.
pub fn in_lab() -> bool {
    std::env::var_os("LAB").is_some_and(|value| value == "1")
}

/// The path of a program.
pub fn find(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(folder) = std::env::var_os("BULKHEAD_BIN_DIR") {
        folders.push(folder.into());
    }
    if in_lab() {
        folders.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
    } else if let Some(target) = std::env::current_exe()?.ancestors().nth(2) {
        folders.push(target.to_path_buf());
    }
    for folder in &folders {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not in {folders:?}: run `cargo build --workspace` first, or set BULKHEAD_BIN_DIR"
    );
}
