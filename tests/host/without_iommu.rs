//! `bulkhead-device-server host ...` on a host that has no IOMMU. All of it runs in a lab of that kind.

mod operator;

use anyhow::Result;
use harness::host_device::{HostDevice, NVME};

use operator::host;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn check_says_blocked_and_what_to_do() -> Result<()> {
    let checked = host("check")?;
    assert_eq!(checked.status, Some(2), "{checked:?}");
    for line in [
        "blocked  iommu: none: the firmware describes none\n",
        "in the firmware setup",
        "blocked  interrupt remapping: off",
    ] {
        assert!(checked.text.contains(line), "{line}: {checked:?}");
    }
    let of_device = host("check 00:04.0")?;
    assert!(
        of_device
            .text
            .contains("blocked  group: in no IOMMU group\n"),
        "{of_device:?}"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bind_is_refused_and_the_device_keeps_its_driver() -> Result<()> {
    host("bind 00:04.0")?.refused(10, &[NVME, "no IOMMU group", "host check"])?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn list_shows_devices_without_groups() -> Result<()> {
    let text = host("list")?.succeeded()?;
    assert!(text.contains("0000:00:04.0      -  nvme  "), "{text}");
    Ok(())
}
