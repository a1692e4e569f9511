//! A driver that does not let its device go: vfio-pci, while a device server has the device open.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::deadline::{HOST_DRIVER, PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::host_device::{HostDevice, NVME};
use harness::process::Process;
use harness::scratch::Scratch;
use rustix::process::Signal;

use crate::operator::{Answer, command, host};

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn interrupted_caller_ends_at_once_and_the_device_is_put_back() -> Result<()> {
    host(&format!("bind {NVME}"))?.succeeded()?;
    let scratch = Scratch::new()?;
    let server = DeviceServer::vfio(NVME, &scratch.file("nvme.sock"))?;
    let mut caller = Process::start(
        "host unbind",
        &mut command(&format!("unbind --force {NVME}"))?,
    )?;
    let waiting = format!("{NVME}: waiting for its driver");
    caller.stderr().wait_for_line(&waiting, PROCESS)?;
    caller.signal(Signal::INT)?;
    assert_eq!(caller.wait(PROCESS)?.code(), Some(130));
    assert!(
        caller
            .stderr()
            .text()
            .contains("interrupted while waiting for vfio-pci")
    );
    assert!(server.stop()?.success());
    let is_back = || (HostDevice::at(NVME).driver()? == "vfio-pci").then_some(());
    eventually("the device is with vfio-pci again", HOST_DRIVER, is_back)?;
    let given_back = || host(&format!("unbind {NVME}")).ok()?.succeeded().ok();
    eventually("the helper process has ended", HOST_DRIVER, given_back)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn slow_driver_is_given_up_and_the_device_is_put_back() -> Result<()> {
    host(&format!("bind {NVME}"))?.succeeded()?;
    let scratch = Scratch::new()?;
    let server = DeviceServer::vfio(NVME, &scratch.file("nvme.sock"))?;
    let started = Instant::now();
    let first = command(&format!("unbind --force --wait 4 {NVME}"))?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = first.id().to_string();
    let lock_has_owner = || {
        let text = std::fs::read_to_string(format!("/run/bulkhead/host/{NVME}.lock")).ok()?;
        (text.trim() == pid).then_some(())
    };
    eventually("the first caller has the lock", HOST_DRIVER, lock_has_owner)?;
    // The second caller is told at once.
    host(&format!("unbind --force {NVME}"))?.refused(12, &[NVME, &pid])?;
    let slow = Answer::from(first.wait_with_output()?);
    assert!(started.elapsed() < Duration::from_secs(20), "{slow:?}");
    assert_eq!(slow.status, Some(6), "{slow:?}");
    assert!(
        slow.errors
            .contains("waiting for its driver, 2 of at most 4 s"),
        "{slow:?}"
    );
    assert!(
        slow.errors
            .contains("vfio-pci did not let it go within 4 s"),
        "{slow:?}"
    );
    // Nobody else gets at the device before its driver has let it go.
    host(&format!("bind {NVME}"))?.refused(12, &[NVME])?;
    assert!(server.stop()?.success());
    let is_back = || (HostDevice::at(NVME).driver()? == "vfio-pci").then_some(());
    eventually("the device is with vfio-pci again", HOST_DRIVER, is_back)?;
    let given_back = || host(&format!("unbind {NVME}")).ok()?.succeeded().ok();
    eventually("the helper process has ended", HOST_DRIVER, given_back)?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}
