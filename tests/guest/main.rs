//! guest-probe: what tests and figures need inside a guest and busybox does not have. Linked statically.
//!
//!     guest-probe reads DISK DEPTH COUNT        random 4 KiB reads, DEPTH at a time (reads.rs)
//!     guest-probe register RESOURCE OFFSET COUNT BATCH    reads of a 32-bit device register, BATCH of them a sample (register.rs)
//!     guest-probe appears FILE                  returns when it is there (appears.rs)
//!
//! Prints one line of "name=value" words, times in nanoseconds.

mod appears;
mod reads;
mod register;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["reads", disk, depth, count] => reads::run(disk, depth.parse()?, count.parse()?),
        ["register", resource, offset, count, batch] => {
            register::run(resource, offset.parse()?, count.parse()?, batch.parse()?)
        }
        ["appears", file] => appears::run(file),
        _ => bail!(
            "usage: guest-probe reads DISK DEPTH COUNT | register RESOURCE OFFSET COUNT BATCH | appears FILE"
        ),
    }
}

/// The value below which `percent` of the sorted samples lie.
fn percentile(sorted: &[u128], percent: usize) -> u128 {
    let index = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(index).copied().unwrap_or_default()
}
