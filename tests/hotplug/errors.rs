//! A device has an error that cannot be corrected. QEMU's monitor puts one (PCI Express AER: a completion that does not come) into a root
//! port of the lab machine, whose kernel tells the driver of the card behind it: VFIO. The card itself cannot report errors in QEMU 10.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::eventually;
use harness::guest::Guest;
use harness::host_device::{E1000E, HostDevice};
use rustix::fs::OFlags;

use crate::machine::{Machine, OBEY, PLUG, PORT, UNPLUG, is_free};

/// From the error to what is said of it.
const TOLD: Duration = Duration::from_secs(30);
/// scripts/test-support/lab_sets.py gives the root port this id, and the lab machine a way to the monitor by that name.
const ERROR_PORT: &str = "error-port";
const MONITOR: &str = "lab-monitor";
/// Vendor and device of an e1000e.
const E1000E_IDS: [&str; 2] = ["0x8086", "0x10d3"];

/// The card behind that port: the other e1000e is on the root bus.
fn card() -> Result<String> {
    let ids = |device: &fs::DirEntry| {
        ["vendor", "device"].map(|name| fs::read_to_string(device.path().join(name)))
    };
    for device in fs::read_dir("/sys/bus/pci/devices")? {
        let device = device?;
        let address = device.file_name().to_string_lossy().into_owned();
        let is_e1000e = ids(&device)
            .iter()
            .zip(E1000E_IDS)
            .all(|(id, wanted)| id.as_ref().is_ok_and(|id| id.trim() == wanted));
        if is_e1000e && address != E1000E {
            return Ok(address);
        }
    }
    anyhow::bail!("no e1000e behind a root port")
}

fn monitor_port() -> Result<String> {
    for port in fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        if fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == MONITOR) {
            return Ok(format!("/dev/{}", port.file_name().to_string_lossy()));
        }
    }
    anyhow::bail!("no port to QEMU's monitor")
}

/// A command for QEMU's monitor. What it has not taken when the port is closed is lost, so its answer is waited for.
fn monitor(command: &str, answer: &str) -> Result<()> {
    let mut options = File::options();
    options.read(true).write(true);
    options.custom_flags(i32::try_from(OFlags::NONBLOCK.bits())?);
    let mut port = options.open(monitor_port()?)?;
    writeln!(port, "{command}")?;
    let mut said = String::new();
    eventually("the monitor's answer", TOLD, || {
        let mut bytes = [0; 4096];
        let length = port.read(&mut bytes).ok()?;
        said.push_str(&String::from_utf8_lossy(&bytes[..length]));
        said.contains(answer).then_some(())
    })
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_with_an_error_that_cannot_be_corrected_is_lost_and_the_slot_takes_it_again() -> Result<()>
{
    let address = card()?;
    HostDevice::at(&address).give_to_vfio()?;
    let device = format!("vfio-pci,host={address},id=card,bus=pcie.1,addr=0x0");
    let guest = Guest::running(OBEY).with_all_drivers();
    let mut machine = Machine::boot_guest(&["-device", PORT, "-device", &device], &guest)?;
    machine.vm.wait_for_line("OBEY")?;
    machine.guest("lspci -n | grep -q 8086:10d3")?;
    monitor(
        &format!("pcie_aer_inject_error {ERROR_PORT} COMP_TIME"),
        &format!("OK id: {ERROR_PORT}"),
    )?;
    let lost = machine.event("BULKHEAD_DEVICE_LOST", TOLD)?;
    ensure!(
        lost["device"] == "card" && lost["cause"].to_string().contains("ERR interrupt"),
        "{lost}"
    );
    machine.event("DEVICE_DELETED", UNPLUG)?;
    is_free(&address)?;
    machine.guest("! lspci -n | grep -q 8086:10d3")?;
    machine.succeed(&format!(
        r#"{{"execute":"device_add","arguments":{{"id":"card","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{address}"}}}}"#
    ))?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    machine.unplug("card")?;
    machine.finish()?;
    Ok(())
}
