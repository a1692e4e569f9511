//! `managed=on`: a device leaves its host driver for the VM and goes back to it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::host_device::{E1000E, HostDevice, NVME};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{MANAGED, Machine, NO_RESET, PLUG, PORT, add_nvme};

/// The supervisor ends what a killed VMM leaves.
const ENDED: Duration = Duration::from_secs(60);

fn policy(options: &str) -> String {
    format!("allow-host={NVME}{options}")
}

fn is_with(driver: &str) -> Result<()> {
    let now = HostDevice::at(NVME).driver();
    ensure!(now.as_deref() == Some(driver), "{now:?}, not {driver}");
    Ok(())
}

/// A machine that may take the NVMe from its host driver, which has it now.
fn machine(port: &str) -> Result<Machine> {
    HostDevice::at(NVME).give_to_host()?;
    let policy = policy(",managed=on");
    let machine = Machine::start(&["-device", port, "-device-policy", &policy])?;
    is_with("nvme")?;
    Ok(machine)
}

fn with_plugged_disk() -> Result<Machine> {
    let mut machine = machine(PORT)?;
    machine.succeed(&add_nvme("disk", MANAGED))?;
    is_with("vfio-pci")?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    machine.guest("wait_for /dev/nvme0n1")?;
    Ok(machine)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn plugged_device_is_taken_from_its_host_driver_and_is_back_with_it_when_deleted() -> Result<()> {
    let mut machine = with_plugged_disk()?;
    machine.unplug("disk")?;
    is_with("nvme")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn plugged_device_is_back_when_the_vm_has_ended() -> Result<()> {
    let machine = with_plugged_disk()?;
    machine.finish()?;
    is_with("nvme")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn plugged_device_of_a_vmm_that_is_killed_is_back_when_the_supervisor_has_ended() -> Result<()> {
    let mut machine = with_plugged_disk()?;
    let vmm = i32::try_from(machine.vm.vmm_pid()?)?;
    kill_process(Pid::from_raw(vmm).context("a pid")?, Signal::KILL)?;
    let status = machine.vm.process().wait(ENDED)?;
    ensure!(!status.success(), "{status}");
    is_with("nvme")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_of_the_command_line_is_taken_and_is_back_when_the_vm_has_ended() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let disk = format!("vfio-pci,host={NVME},id=disk,bus=pcie.1,addr=0x0,managed=on");
    let mut machine = Machine::start(&["-device", PORT, "-device", &disk])?;
    is_with("vfio-pci")?;
    machine.guest("wait_for /dev/nvme0n1")?;
    machine.finish()?;
    is_with("nvme")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_does_not_fit_is_back_when_it_is_refused() -> Result<()> {
    let port = format!("{PORT},mem-reserve=0,pref64-reserve=0");
    let mut machine = machine(&port)?;
    let (_, desc) = machine.qmp.refused(&add_nvme("disk", MANAGED))?;
    ensure!(desc.contains("start the VM with mem-reserve="), "{desc}");
    is_with("nvme")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_whose_server_does_not_start_is_back_when_it_is_refused() -> Result<()> {
    let device = HostDevice::at(NO_RESET);
    let before = device.driver();
    let policy = format!("allow-host={NO_RESET},managed=on");
    let mut machine = Machine::start(&["-device", PORT, "-device-policy", &policy])?;
    let (_, desc) = machine
        .qmp
        .refused(&add_nvme("disk", MANAGED).replace(NVME, NO_RESET))?;
    ensure!(desc.contains("allow-no-reset=on"), "{desc}");
    ensure!(device.driver() == before, "{:?}", device.driver());
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_not_taken_against_the_policy() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let policy = policy("");
    let mut machine = Machine::start(&["-device", PORT, "-device-policy", &policy])?;
    let (_, desc) = machine.qmp.refused(&add_nvme("disk", MANAGED))?;
    ensure!(
        desc.contains(&format!("allow-host={NVME},managed=on")),
        "{desc}"
    );
    is_with("nvme")?;
    machine.finish()?;
    Ok(())
}

/// vfio-pci is out of the kernel as long as this lives.
struct Unloaded;

impl Unloaded {
    fn new() -> Result<Unloaded> {
        shell("rmmod vfio-pci")?;
        Ok(Unloaded)
    }
}

impl Drop for Unloaded {
    fn drop(&mut self) {
        // If it is not there again, the tests that need it say so.
        let _loaded = shell("modprobe vfio-pci");
    }
}

fn shell(line: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", line]).status()?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_not_taken_where_vfio_pci_is_not_loaded_and_nobody_loads_it() -> Result<()> {
    HostDevice::at(E1000E).give_to_host()?;
    let mut machine = machine(PORT)?;
    let unloaded = Unloaded::new()?;
    let (_, desc) = machine.qmp.refused(&add_nvme("disk", MANAGED))?;
    ensure!(desc.contains("`modprobe vfio-pci` first"), "{desc}");
    is_with("nvme")?;
    drop(unloaded);
    machine.succeed(&add_nvme("disk", MANAGED))?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    machine.unplug("disk")?;
    is_with("nvme")?;
    machine.finish()?;
    Ok(())
}
