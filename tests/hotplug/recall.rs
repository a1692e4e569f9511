//! The host wants a device back while a guest uses it: somebody unbinds it from vfio-pci.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use harness::deadline::eventually;
use harness::host_device::{HostDevice, NVME};

use crate::loss::with_disk;
use crate::machine::{Machine, UNPLUG};

/// The kernel tells of the unbind at once.
const TOLD: Duration = Duration::from_secs(20);

/// `echo ADDRESS > unbind`, which returns when nobody uses the device any more.
fn unbind() -> JoinHandle<Result<()>> {
    std::thread::spawn(|| HostDevice::at(NVME).take_from_driver())
}

fn is_unbound(unbind: JoinHandle<Result<()>>) -> Result<()> {
    eventually("the end of the unbind", TOLD, || {
        unbind.is_finished().then_some(())
    })?;
    unbind
        .join()
        .map_err(|_| anyhow!("the unbind panicked"))??;
    let driver = HostDevice::at(NVME).driver();
    ensure!(driver.is_none(), "{driver:?}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_the_host_wants_back_is_asked_of_the_guest_and_the_unbind_ends() -> Result<()> {
    let mut machine = with_disk("")?;
    let unbind = unbind();
    let recalled = machine.event("BULKHEAD_DEVICE_RECALLED", TOLD)?;
    ensure!(recalled["device"] == "disk", "{recalled}");
    machine.event("DEVICE_DELETED", UNPLUG)?;
    is_unbound(unbind)?;
    let events = machine.qmp.events();
    ensure!(!events.contains(&"BULKHEAD_DEVICE_LOST"), "{events:?}");
    machine.guest("! [ -e /dev/nvme0n1 ]")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_the_host_wants_back_is_taken_from_a_guest_that_does_not_let_go() -> Result<()> {
    let mut machine = with_disk(",unplug-timeout=2,on-failure=restart")?;
    machine.succeed(r#"{"execute":"stop"}"#)?;
    let unbind = unbind();
    machine.event("BULKHEAD_DEVICE_RECALLED", TOLD)?;
    machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
    machine.event("DEVICE_DELETED", UNPLUG)?;
    is_unbound(unbind)?;
    machine.succeed(r#"{"execute":"cont"}"#)?;
    let gone = "tries=0; while [ -e /dev/nvme0n1 ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done; ! [ -e /dev/nvme0n1 ]";
    machine.guest(gone)?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_on_the_root_bus_that_the_host_wants_back_is_lost_at_once() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=disk,bus=pcie.0,addr=0x3");
    let mut machine = Machine::start(&["-device", &device])?;
    machine.guest("wait_for /dev/nvme0n1")?;
    let unbind = unbind();
    machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
    is_unbound(unbind)?;
    machine.guest("echo alive")?;
    machine.finish()?;
    Ok(())
}
