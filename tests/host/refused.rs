//! Bad input and bad circumstances: each has its message and status, and nothing is half bound.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;
use harness::host_device::{HostDevice, NVME};

use crate::operator::{Answer, command, host};

const NOBODY: u32 = 65534;
/// The root port that the SR-IOV device is behind.
const BRIDGE: &str = "0000:00:08.0";

fn has_not_changed() {
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_is_not_there() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let second = format!("bind {NVME} 7f:00.0");
    host(&second)?.refused(3, &["no PCI device 0000:7f:00.0"])?;
    has_not_changed();
    host("unbind 7f:00.0")?.refused(3, &["0000:7f:00.0"])?;
    host("check 7f:00.0")?.refused(3, &["0000:7f:00.0"])?;
    host("vfs 7f:00.0 1")?.refused(3, &["0000:7f:00.0"])
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn address_that_is_not_one() -> Result<()> {
    for words in [
        "bind ../../tmp",
        "unbind 1a:00",
        "check 00:04.8",
        "vfs 0x4 1",
    ] {
        let answer = host(words)?;
        assert_eq!(answer.status, Some(16), "{words}: {answer:?}");
        assert!(
            answer.errors.contains("is not a PCI address"),
            "{words}: {answer:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn user_who_is_not_root() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let output = command(&format!("bind {NVME}"))?
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    Answer::from(output).refused(8, &["not allowed", "driver_override", "root"])?;
    has_not_changed();
    let checked = command(&format!("check {NVME}"))?
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    let checked = Answer::from(checked);
    assert_eq!(checked.status, Some(1), "{checked:?}");
    assert!(checked.text.contains("warning  memlock"), "{checked:?}");
    assert!(
        checked.text.contains("run the check as root"),
        "{checked:?}"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn sysfs_that_is_read_only() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let script =
        format!("mount -o remount,bind,ro /sys && exec bulkhead-device-server host bind {NVME}");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()?;
    Answer::from(output).refused(9, &["read-only", "driver_override"])?;
    has_not_changed();
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bridge_stays_with_the_host() -> Result<()> {
    let driver = || HostDevice::at(BRIDGE).driver();
    let before = driver();
    host(&format!("bind {BRIDGE}"))?.refused(14, &[BRIDGE, "is a PCI bridge", "host list"])?;
    assert_eq!(driver(), before);
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn check_that_cannot_be_printed_has_a_status_of_its_own() -> Result<()> {
    let full = File::options().write(true).open("/dev/full")?;
    let output = command("check")?.stdout(full).output()?;
    let answer = Answer::from(output);
    assert_eq!(answer.status, Some(15), "{answer:?}");
    assert!(answer.errors.contains("write to stdout"), "{answer:?}");
    Ok(())
}
