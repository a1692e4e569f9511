//! The official Python QMP client (tests/qmp_client) with a Linux guest and a host device.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::PROCESS;
use harness::host_device::{HostDevice, NVME};
use harness::process::Process;

use crate::machine::{Machine, PORT};

/// It plugs five times and unplugs four times, with five seconds of blinking each, in a guest that is emulated twice.
const CLIENT: Duration = Duration::from_secs(400);

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn official_client_drives_a_linux_guest_and_a_host_device() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let policy = format!("allow-host={NVME}");
    let mut machine = Machine::start_that_reboots(&["-device", PORT, "-device-policy", &policy])?;
    let device = format!(r#"{{"driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"}}"#);
    let mut command = Command::new("python3");
    command.args([
        "-u",
        "/lab/in/qmp_client/drive.py",
        &machine.socket,
        &device,
        "--linux",
    ]);
    let mut client = Process::start("QMP client", &mut command)?;
    let status = client.wait(CLIENT)?;
    println!("{}", client.stdout().text());
    ensure!(
        status.success(),
        "{status}: {}\nthe VM's log:\n{}",
        client.stderr().text(),
        machine.vm.log()
    );
    // Its last command was quit.
    let status = machine.vm.process().wait(PROCESS)?;
    ensure!(status.success(), "{status}: {}", machine.vm.log());
    Ok(())
}
