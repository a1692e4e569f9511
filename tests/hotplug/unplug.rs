//! Ways to leave: the guest lets go by itself, under I/O, late, by force, before it has booted.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::host_device::{HostDevice, NVME};
use serde_json::json;

use crate::machine::{
    Machine, PORT, TWO_CPUS, UNPLUG, behind_port, cold_plugged, cold_plugged_with, group_is_free,
};

/// A device that is taken, not asked for: no driver has a say.
const TAKEN: Duration = Duration::from_secs(20);

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn slot_that_the_guest_turns_off_releases_a_cold_plugged_device_and_takes_it_again() -> Result<()> {
    let mut machine = cold_plugged("")?;
    machine.guest("echo 0 > /sys/bus/pci/slots/1/power")?;
    let data = machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    ensure!(data == json!({"device": "disk", "path": "disk"}), "{data}");
    // The command line named it, so that is policy enough.
    machine.takes_the_disk("wait_for /dev/nvme0n1; block 9 | grep -q 42554c4b48454144")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_under_io_is_unplugged_and_asking_again_does_no_harm() -> Result<()> {
    let mut machine = cold_plugged_with(&TWO_CPUS, "")?;
    machine.guest("(while dd if=/dev/nvme0n1 of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done) & sleep 1")?;
    let del = r#"{"execute":"device_del","arguments":{"id":"disk"}}"#;
    machine.qmp.succeed(del)?;
    machine.qmp.succeed(del)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    let (class, desc) = machine.qmp.refused(del)?;
    ensure!(
        class == "DeviceNotFound" && desc == "Device 'disk' not found",
        "{class} {desc}"
    );
    machine.guest("! [ -e /dev/nvme0n1 ]")?;
    machine.qmp.listen(Duration::from_secs(1))?;
    let deleted = machine
        .qmp
        .events()
        .iter()
        .filter(|name| **name == "DEVICE_DELETED")
        .count();
    ensure!(deleted == 1, "{:?}", machine.qmp.events());
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn guest_that_does_not_answer_is_an_error_and_lets_go_later() -> Result<()> {
    let mut machine = cold_plugged(",unplug-timeout=2")?;
    machine.qmp.succeed(r#"{"execute":"stop"}"#)?;
    machine.event("STOP", TAKEN)?;
    machine
        .qmp
        .succeed(r#"{"execute":"device_del","arguments":{"id":"disk"}}"#)?;
    let late = machine.event("DEVICE_UNPLUG_GUEST_ERROR", Duration::from_secs(10))?;
    ensure!(late == json!({"device": "disk", "path": "disk"}), "{late}");
    let slots = machine.qmp.succeed(r#"{"execute":"query-hotplug"}"#)?;
    ensure!(slots[0]["state"] == "eject-overdue", "{slots}");
    machine.qmp.succeed(r#"{"execute":"cont"}"#)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    group_is_free()?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_is_taken_by_force_is_free_at_once_and_the_slot_takes_another() -> Result<()> {
    let mut machine = cold_plugged("")?;
    machine
        .qmp
        .succeed(r#"{"execute":"device_del","arguments":{"id":"disk","force":true}}"#)?;
    machine.event("DEVICE_DELETED", TAKEN)?;
    group_is_free()?;
    let gone = "tries=0; while [ -e /dev/nvme0n1 ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done; ! [ -e /dev/nvme0n1 ]";
    machine.guest(gone)?;
    machine.takes_the_disk("wait_for /dev/nvme0n1")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_leaves_before_the_guest_has_booted_is_gone_when_it_has() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let mut machine = Machine::boot(&["-device", PORT, "-device", &behind_port("")])?;
    machine
        .qmp
        .succeed(r#"{"execute":"device_del","arguments":{"id":"disk"}}"#)?;
    machine.event("DEVICE_DELETED", TAKEN)?;
    group_is_free()?;
    machine.vm.wait_for_line("OBEY")?;
    machine.guest("! [ -e /dev/nvme0n1 ]; lspci | grep -c Non-Volatile | grep -qx 0")?;
    machine.finish()?;
    Ok(())
}
