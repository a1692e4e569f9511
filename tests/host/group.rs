//! Two serial cards share an IOMMU group.

use anyhow::Result;
use harness::host_device::HostDevice;

use crate::operator::host;

pub(crate) const SERIAL_A: &str = "0000:00:0a.0";
const SERIAL_B: &str = "0000:00:0a.1";

fn drivers() -> [Option<String>; 2] {
    [SERIAL_A, SERIAL_B].map(|address| HostDevice::at(address).driver())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn whole_group_goes_to_vfio_and_back() -> Result<()> {
    let host_drivers = drivers();
    assert!(host_drivers.iter().all(Option::is_some), "{host_drivers:?}");
    let one = host(&format!("bind {SERIAL_A}"))?.succeeded()?;
    assert!(
        one.contains(&format!("not usable before {SERIAL_B}")) && one.contains("--group"),
        "{one}"
    );
    let checked = host(&format!("check {SERIAL_A}"))?;
    assert_eq!(checked.status, Some(1), "{checked:?}");
    assert!(
        checked
            .text
            .contains(&format!("host bind --group {SERIAL_A}")),
        "{checked:?}"
    );
    let whole = host(&format!("bind --group {SERIAL_A}"))?.succeeded()?;
    assert!(whole.contains("ready as /dev/vfio/"), "{whole}");
    assert_eq!(
        drivers(),
        [Some("vfio-pci".to_owned()), Some("vfio-pci".to_owned())]
    );
    host(&format!("unbind --group {SERIAL_B}"))?.succeeded()?;
    assert_eq!(drivers(), host_drivers);
    Ok(())
}
