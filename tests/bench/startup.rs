//! How long it takes until the guest says its first byte and until its user space runs, with and without the device.

use anyhow::{Context, Result};
use harness::guest::Guest;
use harness::host_device::NVME;
use harness::vm::Vm;

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
    let arguments = [&["-smp", "2", "-m", "512M"], device].concat();
    let vm = Vm::start(&arguments, &Guest::running("true").append(EARLY_OUTPUT))?;
    vm.wait_for_line("GUEST-READY")?;
    let user_space = vm.age().as_secs_f64();
    let first_byte = vm
        .first_byte_after()
        .context("the guest printed something")?
        .as_secs_f64();
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
    Ok(())
}
