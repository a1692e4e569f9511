//! An NVMe controller with two virtual functions (SR-IOV).

use anyhow::Result;
use harness::host_device::{HostDevice, NVME};

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
    host("vfs 01:00.0 3")?.refused(2, &["at most 2", "3"])?;
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
