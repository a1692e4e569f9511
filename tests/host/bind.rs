//! A device goes to VFIO and back to the driver it had.

use std::path::Path;

use anyhow::Result;
use harness::deadline::{HOST_DRIVER, eventually};
use harness::host_device::{E1000E, HostDevice, NVME};

use crate::operator::host;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_goes_to_vfio_and_its_disk_comes_back() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let said = host("bind 00:04.0")?.succeeded()?;
    let group = HostDevice::at(NVME).group()?;
    assert_eq!(
        said,
        format!("{NVME}: nvme -> vfio-pci\ngroup {group}: ready as /dev/vfio/{group}\n")
    );
    assert!(Path::new("/dev/vfio").join(&group).exists());
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("vfio-pci"));
    let said = host("unbind 00:04.0")?.succeeded()?;
    assert_eq!(said, format!("{NVME}: vfio-pci -> nvme\n"));
    let disk_is_back = || Path::new("/dev/nvme0n1").exists().then_some(());
    eventually("the disk is back", HOST_DRIVER, disk_is_back)?;
    assert!(!Path::new("/dev/vfio").join(&group).exists());
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nic_without_a_driver_goes_back_to_none() -> Result<()> {
    assert_eq!(HostDevice::at(E1000E).driver(), None);
    host(&format!("bind {E1000E}"))?.succeeded()?;
    assert_eq!(HostDevice::at(E1000E).driver().as_deref(), Some("vfio-pci"));
    let said = host(&format!("unbind {E1000E}"))?.succeeded()?;
    assert_eq!(said, format!("{E1000E}: vfio-pci -> no driver\n"));
    assert_eq!(HostDevice::at(E1000E).driver(), None);
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn two_devices_go_together_and_a_second_bind_changes_nothing() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    host(&format!("bind {NVME} {E1000E}"))?.succeeded()?;
    let again = host(&format!("bind {NVME} {E1000E}"))?.succeeded()?;
    assert!(
        again.contains(&format!("{NVME}: is with vfio-pci already")),
        "{again}"
    );
    host(&format!("unbind {NVME} {E1000E}"))?.succeeded()?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    assert_eq!(HostDevice::at(E1000E).driver(), None);
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_was_bound_by_hand_goes_to_the_driver_that_fits() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let said = host(&format!("unbind {NVME}"))?.succeeded()?;
    assert_eq!(said, format!("{NVME}: vfio-pci -> nvme\n"));
    Ok(())
}
