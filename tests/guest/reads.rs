//! Random 4 KiB reads past the page cache, a fixed number of them in flight: one thread for each.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::percentile;

const BLOCK_BYTES: usize = 4096;

pub(crate) fn run(disk: &str, depth: u64, count: u64) -> Result<()> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(disk)
        .with_context(|| format!("open {disk}"))?;
    let blocks = (&file).seek(SeekFrom::End(0))? / 4096;
    let start = Instant::now();
    let mut samples = std::thread::scope(|scope| -> Result<Vec<u128>> {
        let readers: Vec<_> = (0..depth)
            .map(|seed| {
                scope.spawn({
                    let file = &file;
                    move || read_blocks(file, blocks, seed, count / depth)
                })
            })
            .collect();
        let mut all = Vec::new();
        for reader in readers {
            all.extend(
                reader
                    .join()
                    .map_err(|_| anyhow::anyhow!("a reader panicked"))??,
            );
        }
        Ok(all)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    samples.sort_unstable();
    let reads = samples.len();
    println!(
        "reads={reads} iops={:.0} p50_ns={} p99_ns={}",
        f64::from(u32::try_from(reads)?) / seconds,
        percentile(&samples, 50),
        percentile(&samples, 99)
    );
    Ok(())
}

fn read_blocks(file: &File, blocks: u64, seed: u64, count: u64) -> Result<Vec<u128>> {
    let mut space = vec![0_u8; 2 * BLOCK_BYTES];
    // O_DIRECT wants an aligned buffer.
    let from = space.as_ptr().align_offset(BLOCK_BYTES);
    let buffer = space
        .get_mut(from..from + BLOCK_BYTES)
        .context("an aligned block fits into two")?;
    let mut random = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut samples = Vec::new();
    for _ in 0..count {
        // Marsaglia's xorshift64.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let begin = Instant::now();
        file.read_exact_at(buffer, random % blocks * 4096)
            .context("read")?;
        samples.push(begin.elapsed().as_nanos());
    }
    Ok(samples)
}
