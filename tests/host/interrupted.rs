//! What a caller that was killed leaves, in each state that it can leave, is made good by the next one.

use std::fs;
use std::process::Stdio;

use anyhow::Result;
use harness::deadline::{HOST_DRIVER, PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::host_device::{HostDevice, NVME};
use harness::process::Process;
use harness::scratch::Scratch;
use rustix::process::Signal;

use crate::operator::{Answer, command, host};

const NOTE: &str = "/run/bulkhead/host/0000:00:04.0.json";
const OVERRIDE: &str = "/sys/bus/pci/devices/0000:00:04.0/driver_override";

/// What `host bind` leaves when it is killed after it has set the override.
fn killed_before_the_driver_let_go() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    fs::create_dir_all("/run/bulkhead/host")?;
    fs::write(NOTE, r#"{"driver":"nvme","driver_override":""}"#)?;
    Ok(fs::write(OVERRIDE, "vfio-pci\n")?)
}

/// What it leaves when it is killed one step later.
fn killed_before_vfio_took_it() -> Result<()> {
    killed_before_the_driver_let_go()?;
    HostDevice::at(NVME).take_from_driver()
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn unbind_after_a_killed_bind_gives_the_device_back() -> Result<()> {
    for left in [killed_before_the_driver_let_go, killed_before_vfio_took_it] {
        left()?;
        host(&format!("unbind {NVME}"))?.succeeded()?;
        assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
        assert_eq!(fs::read_to_string(OVERRIDE)?.trim(), "(null)");
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bind_after_a_killed_bind_remembers_the_first_driver() -> Result<()> {
    for left in [killed_before_the_driver_let_go, killed_before_vfio_took_it] {
        left()?;
        host(&format!("bind {NVME}"))?.succeeded()?;
        assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("vfio-pci"));
        let said = host(&format!("unbind {NVME}"))?.succeeded()?;
        assert_eq!(said, format!("{NVME}: vfio-pci -> nvme\n"));
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn override_that_was_set_by_hand_does_not_keep_the_device() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    fs::write(OVERRIDE, "vfio-pci\n")?;
    host(&format!("bind {NVME}"))?.succeeded()?;
    host(&format!("unbind {NVME}"))?.succeeded()?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    assert_eq!(fs::read_to_string(OVERRIDE)?.trim(), "(null)");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_caller_of_a_slow_unbind_leaves_the_device_as_it_was() -> Result<()> {
    host(&format!("bind {NVME}"))?.succeeded()?;
    let scratch = Scratch::new()?;
    let server = DeviceServer::vfio(NVME, &scratch.file("nvme.sock"))?;
    let mut words = command(&format!("unbind --force {NVME}"))?;
    let mut caller = Process::start("host unbind", &mut words)?;
    let waiting = format!("{NVME}: waiting for its driver");
    caller.stderr().wait_for_line(&waiting, PROCESS)?;
    // The helper process is in a group of its own: it outlives its caller.
    caller.signal(Signal::KILL)?;
    caller.wait(PROCESS)?;
    host(&format!("bind {NVME}"))?.refused(12, &[NVME])?;
    assert!(server.stop()?.success());
    let free = || host(&format!("unbind {NVME}")).ok()?.succeeded().ok();
    let said = eventually("the helper process has ended", HOST_DRIVER, free)?;
    assert_eq!(said, format!("{NVME}: vfio-pci -> nvme\n"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn two_callers_bind_one_device_and_one_wins() -> Result<()> {
    for _ in 0..5 {
        HostDevice::at(NVME).give_to_host()?;
        let start = || {
            let mut words = command(&format!("bind {NVME}"))?;
            words.stdout(Stdio::piped()).stderr(Stdio::piped());
            Ok::<_, anyhow::Error>(words.spawn()?)
        };
        let (first, second) = (start()?, start()?);
        let answers = [first, second].map(|caller| caller.wait_with_output().map(Answer::from));
        for answer in answers {
            let answer = answer?;
            match answer.status {
                Some(0) => {}
                // The winner's number is named if it still runs when the loser looks.
                _ => answer.refused(12, &[NVME, "being bound or unbound by"])?,
            }
        }
        assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("vfio-pci"));
        let said = host(&format!("unbind {NVME}"))?.succeeded()?;
        assert_eq!(said, format!("{NVME}: vfio-pci -> nvme\n"));
    }
    Ok(())
}
