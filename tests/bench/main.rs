//! The figures of docs/performance.md, measured inside the lab machine (scripts/bench).
//!
//! Every comparison is made of alternating pairs in one boot of the lab; only ratios taken there mean anything.
//! Usage: bulkhead-bench PAIRS JSON-FILE

mod startup;
mod transfers;
mod memory;
mod figures;

use anyhow::{Context, Result};
use harness::host_device::{HostDevice, NVME};

use figures::Figures;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let pairs: usize = words
        .next()
        .context("usage: bulkhead-bench PAIRS JSON-FILE")?
        .parse()?;
    let json_file = words
        .next()
        .context("usage: bulkhead-bench PAIRS JSON-FILE")?;
    HostDevice::at(NVME).give_to_vfio()?;
    let mut figures = Figures::default();
    startup::measure(pairs, &mut figures)?;
    transfers::measure(pairs, &mut figures)?;
    memory::measure(&mut figures)?;
    println!("{}", figures.table());
    std::fs::write(&json_file, figures.json()?).with_context(|| format!("write {json_file}"))?;
    figures.limits_kept()
}
