//! How long it takes until the guest says its first byte and until its user space runs, with and without the device.

use anyhow::{Context, Result};
use harness::guest::Guest;
use harness::host_device::NVME;
use harness::vm::Vm;
use serde_json::Value;

use crate::figures::Figures;

/// Lets the kernel speak from its first line on, but not of every detail.
const EARLY_OUTPUT: &str = "earlyprintk=ttyS0,115200 loglevel=6";

pub(crate) fn measure(pairs: usize, figures: &mut Figures) -> Result<()> {
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    for pair in 0..pairs {
        eprintln!("bench: start-up, pair {} of {pairs}", pair + 1);
        start(&[], "without device", figures)?;
        start(&["-device", &device], "with NVMe", figures)?;
    }
    Ok(())
}

fn start(device: &[&str], what: &str, figures: &mut Figures) -> Result<()> {
    let arguments = [
        &[
            "-smp",
            "2",
            "-m",
            "512M",
            "-log-level",
            "info",
            "-log-format",
            "json",
        ],
        device,
    ]
    .concat();
    let vm = Vm::start(&arguments, &Guest::running("true").append(EARLY_OUTPUT))?;
    vm.wait_for_line("GUEST-READY")?;
    let user_space = vm.age().as_secs_f64();
    let first_byte = vm
        .first_byte_after()
        .context("the guest printed something")?
        .as_secs_f64();
    let (started, log) = (vm.started_monotonic_ms(), vm.log());
    vm.finish()?.succeeded()?;
    figures.add(
        &format!("start to first serial byte, {what}"),
        "s",
        first_byte,
    );
    figures.add(
        &format!("start to guest user space, {what}"),
        "s",
        user_space,
    );
    steps(started, &log, what, figures)
}

/// What each step of the start took, from the lines with a `stage` in the VMM's log.
fn steps(started_ms: i64, log: &str, what: &str, figures: &mut Figures) -> Result<()> {
    let field = |stage: &str, name: &str| stage_field(log, stage, name);
    let reached =
        |stage: &str| field(stage, "ms").with_context(|| format!("no stage {stage:?} in:\n{log}"));
    let began =
        field("stage-vmm", "monotonic_ms").with_context(|| format!("no stage-vmm in:\n{log}"))?;
    let started = f64::from(i32::try_from(started_ms)?);
    let mut add = |step: &str, ms: f64| figures.add(&format!("step {step}, {what}"), "ms", ms);
    add("supervisor, device server spawn", began - started);
    add(
        "guest memory",
        reached("memory-ready")? - reached("stage-vmm")?,
    );
    if let Some(ms) = field("dma-map", "ms") {
        add("DMA map of 512 MiB", ms);
        add(
            "attach without DMA map",
            reached("devices-attached")? - reached("memory-ready")? - ms,
        );
    }
    add(
        "kernel and initrd load",
        reached("kernel-loaded")? - reached("devices-attached")?,
    );
    Ok(())
}

/// A number of the last line about `stage` in a VMM's log.
pub(crate) fn stage_field(log: &str, stage: &str, name: &str) -> Option<f64> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .rfind(|line| line["fields"]["stage"] == stage)?["fields"][name]
        .as_f64()
}
