//! How long anything in a test may take, and how to wait for what cannot be polled by fd.
//!
//! The times are for a machine that emulates two levels of machines on two busy cores; a healthy run needs a tenth.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// From the VMM's start to a guest's power-off, for one guest boot.
pub const GUEST_RUN: Duration = Duration::from_secs(120);
/// For a process of ours to be ready, or to end once it was told to.
pub const PROCESS: Duration = Duration::from_secs(20);
/// For the host kernel to bind a driver and make its device nodes.
pub const HOST_DRIVER: Duration = Duration::from_secs(20);

/// Between two looks; shorter at first.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it gives a value. For sysfs and /proc, which have nothing to wait on.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(300);
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL_INTERVAL);
    }
}
