//! The figures of docs/performance.md, measured inside the lab machine (scripts/bench).
//!
//! Every comparison is made of alternating pairs in one boot of the lab; only ratios taken there mean anything.
//! Usage: bulkhead-bench PAIRS JSON-FILE [PART...], PARTs being those of `PARTS`; without one, all of them.

mod hot_plug;
mod against_qemu;
mod flood;
mod startup;
mod transfers;
mod memory;
mod contender;
mod resets;
mod group;
mod figures;

use anyhow::{Context, Result, bail, ensure};
use harness::host_device::{HostDevice, NVME};

use figures::Figures;

const USAGE: &str = "usage: bulkhead-bench PAIRS JSON-FILE [PART...]";

/// What can be measured. Those without QEMU take half as many pairs.
const PARTS: [(&str, Part); 6] = [
    ("hot-plug", hot_plug::measure),
    ("qemu", against_qemu::measure),
    ("flood", flood::measure),
    ("start-up", |pairs, figures| {
        startup::measure(pairs.div_ceil(2), figures)
    }),
    ("transfers", |pairs, figures| {
        transfers::measure(pairs.div_ceil(2), figures)
    }),
    ("memory", |_, figures| memory::measure(figures)),
];

type Part = fn(usize, &mut Figures) -> Result<()>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [pairs, json_file, wanted @ ..] = words.as_slice() else {
        bail!(USAGE);
    };
    let pairs: usize = pairs.parse().context(USAGE)?;
    for name in wanted {
        ensure!(
            PARTS.iter().any(|(part, _)| part == name),
            "no part {name}: {}",
            PARTS.map(|(part, _)| part).join(", ")
        );
    }
    HostDevice::at(NVME).give_to_vfio()?;
    let mut figures = Figures::default();
    let mut failed = Vec::new();
    for (name, measure) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|one| one == name) {
            continue;
        }
        if let Err(error) = measure(pairs, &mut figures) {
            eprintln!("bench: {name}: {error:#}");
            failed.push(name);
        }
    }
    println!("{}", figures.table());
    std::fs::write(json_file, figures.json()?).with_context(|| format!("write {json_file}"))?;
    ensure!(
        failed.is_empty(),
        "could not be measured: {}",
        failed.join(", ")
    );
    figures.limits_kept()
}
