//! An NVMe controller with two virtual functions (SR-IOV).

use anyhow::Result;
use harness::deadline::{HOST_DRIVER, eventually};
use harness::device_server::DeviceServer;
use harness::host_device::{HostDevice, NVME};
use harness::scratch::Scratch;

use crate::operator::host;

const PHYSICAL: &str = "0000:01:00.0";
const FIRST: &str = "0000:01:00.1";
const SECOND: &str = "0000:01:00.2";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn functions_are_made_bound_and_removed() -> Result<()> {
    let made = host("vfs 01:00.0 2")?.succeeded()?;
    let group = HostDevice::at(SECOND).group()?;
    assert!(made.contains(&format!("{FIRST}: group ")), "{made}");
    assert!(
        made.contains(&format!("{SECOND}: group {group}, ")),
        "{made}"
    );
    let bound = host("bind 01:00.2")?.succeeded()?;
    assert!(
        bound.contains(&format!("ready as /dev/vfio/{group}")),
        "{bound}"
    );
    let checked = host("check 01:00.2")?.text;
    assert!(
        checked.contains(&format!("function: virtual, of {PHYSICAL}")),
        "{checked}"
    );
    host("bind 01:00.0")?.refused(4, &[PHYSICAL, "2 virtual functions", "host vfs"])?;
    host("vfs 01:00.0 3")?.refused(17, &["at most 2", "3"])?;
    host("vfs 01:00.0 0")?.succeeded()?;
    assert_eq!(HostDevice::at(SECOND).driver(), None, "it is gone");
    assert_eq!(HostDevice::at(PHYSICAL).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_without_virtual_functions_is_refused() -> Result<()> {
    host(&format!("vfs {NVME} 1"))?.refused(13, &[NVME, "no virtual functions"])
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn function_in_use_is_not_removed_and_a_forced_removal_that_takes_too_long_is_undone() -> Result<()>
{
    host("vfs 01:00.0 2")?.succeeded()?;
    host("bind 01:00.2")?.succeeded()?;
    let scratch = Scratch::new()?;
    let server = DeviceServer::vfio(SECOND, &scratch.file("vf.sock"))?;
    host("vfs 01:00.0 0")?.refused(4, &[SECOND, "has it open"])?;
    let slow = host("vfs 01:00.0 0 --force --wait 3")?;
    assert_eq!(slow.status, Some(6), "{slow:?}");
    assert!(
        slow.errors
            .contains("did not set its virtual functions within 3 s"),
        "{slow:?}"
    );
    host("vfs 01:00.0 1")?.refused(12, &[PHYSICAL])?;
    assert!(server.stop()?.success());
    let count = format!("/sys/bus/pci/devices/{PHYSICAL}/sriov_numvfs");
    let again = || host("vfs 01:00.0 2").ok()?.succeeded().ok();
    eventually("the helper process has ended", HOST_DRIVER, again)?;
    assert_eq!(std::fs::read_to_string(count)?.trim(), "2");
    host("vfs 01:00.0 0")?.succeeded()?;
    Ok(())
}
