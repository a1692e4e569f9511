//! What crosses a plug or an unplug: the end of the device server, a reset of the machine, a device that dies again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::eventually;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};

use crate::loss::{kill_server, with_disk};
use crate::machine::{Machine, PORT, UNPLUG, add_nvme, group_is_free};

const TOLD: Duration = Duration::from_secs(30);
/// A server starts and is attached.
const SERVED: Duration = Duration::from_secs(30);
/// Restarts within a minute (`vmm/src/hotplug/remove.rs`).
const RESTARTS: usize = 3;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_killed_during_device_add_leaves_nothing_and_the_next_one_works() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let policy = format!("allow-host={NVME}");
    let mut machine = Machine::start(&["-device", PORT, "-device-policy", &policy])?;
    machine.qmp.send(add_nvme("disk", ""))?;
    eventually("a device server", SERVED, || {
        let pids = machine.vm.device_server_pids().ok()?;
        (!pids.is_empty()).then_some(())
    })?;
    kill_server(&machine)?;
    let answer = machine.qmp.answer()?;
    // It may have been ready a moment before: then it is a loss.
    if answer.get("error").is_none() {
        machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
        machine.event("DEVICE_DELETED", UNPLUG)?;
    }
    println!("{answer}");
    group_is_free()?;
    ensure!(
        machine.vm.device_server_pids()?.is_empty(),
        "no server is left"
    );
    machine.takes_the_disk("wait_for /dev/nvme0n1")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_killed_during_an_unplug_does_not_come_back() -> Result<()> {
    let mut machine = with_disk(",on-failure=restart")?;
    machine
        .qmp
        .succeed(r#"{"execute":"device_del","arguments":{"id":"disk"}}"#)?;
    kill_server(&machine)?;
    machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    ensure!(
        machine.vm.device_server_pids()?.is_empty(),
        "no server is left"
    );
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_dies_too_often_is_removed() -> Result<()> {
    let mut machine = with_disk(",on-failure=restart")?;
    for _ in 0..RESTARTS {
        kill_server(&machine)?;
        machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
        eventually("a new server", SERVED, || {
            let devices = machine
                .qmp
                .succeed(r#"{"execute":"query-vfio-user"}"#)
                .ok()?;
            (devices[0]["state"] == "present").then_some(())
        })?;
    }
    kill_server(&machine)?;
    machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    machine.finish()?;
    Ok(())
}

/// Says whether there is a disk, at every start.
const TELL: &str = r#"
    tries=0
    until [ -e /dev/nvme0n1 ] || [ $tries -gt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    [ -e /dev/nvme0n1 ] && echo "DISK yes" || echo "DISK no"
    read -r line </dev/ttyS0
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn unplug_that_a_reset_overtakes_ends_and_the_guest_boots_without_the_device() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let disk = format!("vfio-pci,host={NVME},id=disk,bus=pcie.1,addr=0x0");
    let arguments = ["-smp", "2", "-device", PORT, "-device", &disk];
    let mut machine = Machine::boot_guest_that_reboots(&arguments, &Guest::running(TELL))?;
    machine.vm.wait_for_line("DISK yes")?;
    machine
        .qmp
        .succeed(r#"{"execute":"device_del","arguments":{"id":"disk"}}"#)?;
    machine.qmp.succeed(r#"{"execute":"system_reset"}"#)?;
    machine.event("RESET", TOLD)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    machine.vm.wait_for_line("DISK no")?;
    machine.tell("leave")?;
    machine.end()?;
    Ok(())
}
