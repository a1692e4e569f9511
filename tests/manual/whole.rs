//! The manuals, each from a bare boot to a device that its host driver has again.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::host_device::HostDevice;

use crate::dialogue::Order;
use crate::host::{DEVICE, SIBLING, USED, here, prepare};
use crate::run::Reader;

const MANUAL: &str = include_str!("../../docs/vfio.md");
/// The commands and requests of the manual that docs/vfio.md replaces, as they stand there.
const SEED: &str = include_str!("seed.md");

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn manual_is_true_from_the_first_command_to_the_last() -> Result<()> {
    let before = HostDevice::at(DEVICE).driver();
    prepare()?;
    let printed = Reader::new(Order::AsShown)?.follow(&here(MANUAL)?)?;
    ensure!(printed.contains(USED), "a guest used it: {printed}");
    for device in [DEVICE, SIBLING] {
        let after = HostDevice::at(device).driver();
        ensure!(after == before, "{device}: {before:?}, then {after:?}");
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn seed_manual_is_true_from_the_first_command_to_the_last() -> Result<()> {
    let before = HostDevice::at(DEVICE).driver();
    prepare()?;
    // It speaks of a device that is alone in its group, or whose neighbours no driver has.
    HostDevice::at(SIBLING).take_from_driver()?;
    // In it the answer to device_del comes behind the event, which no QEMU does.
    let seed = here(&SEED.replace("0000:03:00.0", DEVICE))?;
    Reader::new(Order::Any)?.follow(&seed)?;
    let after = HostDevice::at(DEVICE).driver();
    ensure!(after == before, "{before:?}, then {after:?}");
    // new_id speaks of all devices of a kind, and stays.
    let _kind = Command::new("rmmod").arg("vfio_pci").output()?;
    HostDevice::at(SIBLING).give_to_host()
}
