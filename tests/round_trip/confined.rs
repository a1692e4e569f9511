//! What the sandbox costs a device server: its start, a trapped access, its memory.
//!
//! With the test device: it has no hardware whose reset would be most of a start.
//! Reads are compared under SCHED_BATCH (sched(7)): under the default policy a woken process preempts its waker or not, in two rhythms
//! that are a fifth apart, and which of them a pair falls into is not the sandbox's doing.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::proc_files::mappings;

use super::Times;
use super::cpus::Cpus;
use super::figures::{Figures, Limit};
use super::ours::{Deadlines, Ours};
use super::used::attach_and_use;

const START_RATIO: &str = "start to first answer, sandbox on / off";
const READ_RATIO: &str = "4-byte read p50, sandbox on / off";
const MEMORY: &str = "PSS of an idle sandboxed device server, used";
const UNUSED_MEMORY: &str = "PSS of an idle sandboxed device server, connected";
/// A second after its start a server gives back what only that needed.
const SETTLED: Duration = Duration::from_secs(2);
const MEMORY_RUNS: usize = 5;
const MAX_START_RATIO: f64 = 1.5;
const MAX_READ_RATIO: f64 = 1.05;
const MAX_MEMORY_MIB: f64 = 3.0;
/// Of a server that is not confined.
pub(crate) const OFF: &[&str] = &["--sandbox=off"];

/// A pair of servers, one of them without a sandbox.
pub(crate) struct Pair {
    on: Ours,
    off: Ours,
}

impl Pair {
    pub(crate) fn start() -> Result<Self> {
        let pair = Self {
            on: Ours::start(Deadlines::Watched, &[])?,
            off: Ours::start(Deadlines::Watched, OFF)?,
        };
        for server in pair.pids() {
            set_policy("--batch", server)?;
        }
        Ok(pair)
    }

    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.on.pid(), self.off.pid()]
    }

    pub(crate) fn round(&self, cpus: Cpus, figures: &mut Figures) -> Result<()> {
        let at = cpus.name();
        set_policy("--batch", std::process::id())?;
        let off = Times::of(|| self.off.read())?;
        let on = Times::of(|| self.on.read())?;
        set_policy("--other", std::process::id())?;
        figures.add(&format!("{READ_RATIO}, {at}"), "", on.p50 / off.p50);
        let off = millis(OFF)?;
        let on = millis(&[])?;
        figures.add(&format!("start to first answer, {at}"), "ms", on);
        figures.add(&format!("{START_RATIO}, {at}"), "", on / off);
        Ok(())
    }

    /// Of servers that have a client: once it is connected, and after it has used all that a device has.
    pub(crate) fn memory(figures: &mut Figures) -> Result<()> {
        for _ in 0..MEMORY_RUNS {
            let idle = Ours::start(Deadlines::Timers, &[])?;
            std::thread::sleep(SETTLED);
            figures.add(UNUSED_MEMORY, "MiB", memory_mib(idle.pid())?);
            attach_and_use(idle.client())?;
            figures.add(MEMORY, "MiB", memory_mib(idle.pid())?);
        }
        Ok(())
    }
}

/// Of all threads of a process.
fn set_policy(policy: &str, process: u32) -> Result<()> {
    let process = process.to_string();
    let words = [policy, "--all-tasks", "--pid", "0", &process];
    let status = Command::new("chrt").args(words).status();
    let status = status.context("run chrt (Debian's package util-linux)")?;
    ensure!(status.success(), "chrt {}: {status}", words.join(" "));
    Ok(())
}

fn memory_mib(pid: u32) -> Result<f64> {
    let kib: u64 = mappings(pid)?.iter().map(|map| map.pss_kib).sum();
    Ok(f64::from(u32::try_from(kib)?) / 1024.0)
}

pub(crate) fn limits(figures: &mut Figures) {
    let one = Cpus::One.name();
    for (name, limit) in [(START_RATIO, MAX_START_RATIO), (READ_RATIO, MAX_READ_RATIO)] {
        figures.limit(&format!("{name}, {one}"), "", Limit::Below(limit));
    }
    figures.limit(MEMORY, "MiB", Limit::Below(MAX_MEMORY_MIB));
}

fn millis(options: &[&str]) -> Result<f64> {
    let begin = Instant::now();
    let server = Ours::start(Deadlines::Timers, options)?;
    server.read()?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}
