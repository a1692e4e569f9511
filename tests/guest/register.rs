//! Reads of one 32-bit register in a memory BAR that sysfs maps into this process.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::percentile;

/// A sample is the mean of `batch` reads: a mapped read is much shorter than reading the clock.
pub(crate) fn run(resource: &str, offset: usize, count: u64, batch: u32) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(resource)
        .with_context(|| format!("open {resource}"))?;
    let size = usize::try_from(file.metadata()?.len())?;
    let region = MmapRegion::<()>::from_file(FileOffset::new(file, 0), size)
        .with_context(|| format!("map {resource}"))?;
    let registers = region.as_volatile_slice();
    let mut value: u32 = registers.load(offset, Ordering::Relaxed)?;
    let mut samples = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        for _ in 0..batch {
            value = registers.load(offset, Ordering::Relaxed)?;
        }
        samples.push(begin.elapsed().as_nanos() / u128::from(batch));
    }
    samples.sort_unstable();
    println!(
        "value={value:#010x} p50_ns={} p99_ns={}",
        percentile(&samples, 50),
        percentile(&samples, 99)
    );
    Ok(())
}
