//! The device server dies: the guest loses that device, and what happens next is the operator's choice.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::process;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{
    Machine, PLUG, TWO_CPUS, UNPLUG, add_nvme, cold_plugged, cold_plugged_with, group_is_free,
};

const NOTICED: Duration = Duration::from_secs(20);
/// The supervisor kills a server that does not end within 75 s.
const SERVER_END: Duration = Duration::from_secs(100);

/// A machine whose guest uses the NVMe behind pcie.1.
pub(crate) fn with_disk(options: &str) -> Result<Machine> {
    reading(cold_plugged(options)?)
}

fn reading(mut machine: Machine) -> Result<Machine> {
    machine.guest("(while dd if=/dev/nvme0n1 of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done) & sleep 1")?;
    Ok(machine)
}

pub(crate) fn kill_server(machine: &Machine) -> Result<()> {
    let pids = machine.vm.device_server_pids()?;
    ensure!(!pids.is_empty(), "there is a device server");
    for pid in pids {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        if let Some(pid) = pid {
            // It may be the parent of the one that was killed before it.
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_server_is_a_loss_with_a_cause_and_the_slot_takes_the_device_again() -> Result<()> {
    let mut machine = reading(cold_plugged_with(&TWO_CPUS, "")?)?;
    kill_server(&machine)?;
    let lost = machine.event("BULKHEAD_DEVICE_LOST", NOTICED)?;
    ensure!(lost["device"] == "disk", "{lost}");
    ensure!(
        lost["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("closed the connection")),
        "{lost}"
    );
    machine.event("DEVICE_DELETED", UNPLUG)?;
    machine.guest("tries=0; while [ -e /dev/nvme0n1 ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done; ! [ -e /dev/nvme0n1 ]")?;
    machine.qmp.succeed(&add_nvme("disk", ""))?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    let output = machine.guest("wait_for /dev/nvme0n1; echo \"BLOCK $(block 33)\"")?;
    ensure!(output.contains(&record_in_hex(33)), "{output}");
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_server_with_on_failure_restart_comes_back_by_itself() -> Result<()> {
    let mut machine = with_disk(",on-failure=restart")?;
    kill_server(&machine)?;
    machine.event("BULKHEAD_DEVICE_LOST", NOTICED)?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    let output = machine.guest("tries=0; until [ -n \"$(block 34)\" ] || [ $tries -gt 300 ]; do sleep 0.1; tries=$((tries + 1)); done; echo \"BLOCK $(block 34)\"")?;
    ensure!(output.contains(&record_in_hex(34)), "{output}");
    ensure!(
        !machine.qmp.events().contains(&"DEVICE_DELETED"),
        "{:?}",
        machine.qmp.events()
    );
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_server_with_on_failure_stop_stops_the_machine() -> Result<()> {
    let mut machine = with_disk(",on-failure=stop")?;
    kill_server(&machine)?;
    machine.event("BULKHEAD_DEVICE_LOST", NOTICED)?;
    machine.event("STOP", NOTICED)?;
    let status = machine.qmp.succeed(r#"{"execute":"query-status"}"#)?;
    ensure!(status["status"] == "paused", "{status}");
    machine.qmp.succeed(r#"{"execute":"cont"}"#)?;
    machine.event("RESUME", NOTICED)?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn lost_device_on_the_root_bus_stays_lost_and_the_guest_lives() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=disk,bus=pcie.0,addr=0x3");
    let mut machine = Machine::start(&["-device", &device])?;
    machine.guest("wait_for /dev/nvme0n1")?;
    kill_server(&machine)?;
    machine.event("BULKHEAD_DEVICE_LOST", NOTICED)?;
    let devices = machine.qmp.succeed(r#"{"execute":"query-vfio-user"}"#)?;
    ensure!(devices[0]["state"] == "lost", "{devices}");
    let (_, desc) = machine
        .qmp
        .refused(r#"{"execute":"device_del","arguments":{"id":"disk"}}"#)?;
    ensure!(
        desc.contains("Bus 'pcie.0' does not support hotplugging"),
        "{desc}"
    );
    machine.guest("echo alive")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_stands_still_is_a_loss_at_the_deadline_and_is_killed() -> Result<()> {
    let mut machine = with_disk("")?;
    for pid in machine.vm.device_server_pids()? {
        process::stop(pid)?;
    }
    // Configuration space is the server's to answer.
    machine.guest("cat /sys/class/nvme/nvme0/device/config | head -c 4 >/dev/null; true")?;
    let lost = machine.event("BULKHEAD_DEVICE_LOST", NOTICED)?;
    println!("LOST {lost}");
    machine.event("DEVICE_DELETED", SERVER_END)?;
    group_is_free()?;
    ensure!(!HostDevice::at(NVME).is_bus_master()?, "its DMA is off");
    machine.guest("echo alive")?;
    machine.finish()?;
    Ok(())
}
