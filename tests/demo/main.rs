//! Shows the main job on one machine: a guest uses a PCI device that only a device server holds; then another one
//! gets it while it runs, and loses it again.
//!
//! Usage: bulkhead-demo ADDRESS [--write]. It runs inside the lab or on a machine with an IOMMU; scripts/demo starts
//! it either way. Without --write nothing is written to the device's disk.
//! Environment: LAB_GUEST_VMLINUX and LAB_GUEST_INITRD name the guest's kernel and initrd, LAB_GUEST_KERNEL_GENERIC and
//! LAB_GUEST_INITRD_GENERIC those for a device other than NVMe.

mod hot_plug;
mod guest_script;
mod holders;
mod transfer;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::guest::Guest;
use harness::host_device::HostDevice;
use harness::programs;
use harness::vm::Vm;

use guest_script::{READS, script};
use transfer::Meter;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (address, write) = match words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [address] => ((*address).to_owned(), false),
        [address, "--write"] => ((*address).to_owned(), true),
        _ => bail!("usage: bulkhead-demo ADDRESS [--write]"),
    };
    let device = HostDevice::at(&address);
    let before = device.driver();
    let start = Instant::now();
    let outcome =
        cold_plug(device, &address, write).and_then(|()| hot_plug::show(device, &address));
    if before.as_deref() != Some("vfio-pci") {
        say(&format!(
            "giving {address} back to {}",
            before.as_deref().unwrap_or("nobody")
        ));
        host("unbind", &address)?;
    }
    println!("whole demo: {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// Runs `bulkhead-device-server host`, which says what it does and refuses what the host uses.
fn host(verb: &str, address: &str) -> Result<()> {
    println!("    bulkhead-device-server host {verb} {address}");
    let status = Command::new(programs::find(programs::DEVICE_SERVER)?)
        .args(["host", verb, address])
        .status()
        .context("start bulkhead-device-server")?;
    ensure!(
        status.success(),
        "host {verb} {address} ended with {status}"
    );
    Ok(())
}

fn say(text: &str) {
    println!("--- {text}");
}

fn cold_plug(device: HostDevice<'_>, address: &str, write: bool) -> Result<()> {
    let driver = device.driver().unwrap_or_else(|| "no driver".to_owned());
    say(&format!(
        "{address} is in IOMMU group {}, with {driver}: giving it to vfio-pci",
        device.group()?
    ));
    host("bind", address)?;
    say("starting the VM: bulkhead-vmm starts the device server, and only that opens the device");
    let argument = format!("vfio-pci,host={address},id=dev,bus=pcie.0,addr=0x03");
    println!(
        "    bulkhead-vmm -machine q35 -cpu host -smp 2 -m 512M -kernel ... -device {argument}"
    );
    let guest = guest(&script(write), address)?;
    let mut vm = Vm::start(&["-smp", "2", "-m", "512M", "-device", &argument], &guest)?;
    vm.wait_for_line("GUEST-READY")?;
    say(&format!(
        "the guest's user space runs after {:.1} s",
        vm.age().as_secs_f64()
    ));
    vm.wait_for_mark("seen")?;
    print_guest_lines(&vm);
    let holders = holders::table(&vm)?;
    let cost = if vm.wait_for_line("DISK ")?.as_str() == "yes" {
        Some(transfer_cost(&mut vm)?)
    } else {
        None
    };
    vm.resume()?;
    let report = vm.finish()?.succeeded()?;
    say("the guest powered off; every process of the VM is gone");
    println!("\nWho held what while the guest used the device\n{holders}");
    if let Some((cost, seconds)) = cost {
        println!(
            "{READS} reads of 4 KiB by the guest, {seconds:.2} s\n{}",
            cost.table()
        );
    }
    for line in report.values("INTERRUPTS") {
        println!("interrupts that the guest took: {line}");
    }
    println!();
    Ok(())
}

/// The kernel that starts fastest has a driver for NVMe, and not for all devices.
fn guest(script: &str, address: &str) -> Result<Guest> {
    const NVME_CLASS: &str = "0x010802";
    let file = format!("/sys/bus/pci/devices/{address}/class");
    let class = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let guest = Guest::running(script);
    Ok(match class.trim() {
        NVME_CLASS => guest,
        _ => guest.with_all_drivers(),
    })
}

fn transfer_cost(vm: &mut Vm) -> Result<(transfer::Cost, f64)> {
    let server = *vm
        .device_server_pids()?
        .first()
        .context("a device server runs")?;
    say(&format!(
        "the guest reads {READS} blocks; we count what that costs outside of it"
    ));
    let meter = Meter::start(vm.vmm_pid()?, server)?;
    let begin = Instant::now();
    vm.resume()?;
    vm.wait_for_mark("transferred")?;
    Ok((meter.stop()?, begin.elapsed().as_secs_f64()))
}

/// What the guest said so far for the eyes of the reader.
fn print_guest_lines(vm: &Vm) {
    for line in vm
        .console()
        .lines()
        .filter_map(|line| line.strip_prefix("SHOW "))
    {
        println!("    guest: {line}");
    }
}
