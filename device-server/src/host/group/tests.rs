use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;
use crate::host::device::{DeviceError, HostDevice};

/// A folder that looks like /sys with the devices and drivers given; removed on drop.
struct FakeSysfs {
    root: PathBuf,
}

impl FakeSysfs {
    fn new(name: &str, devices: &[(&str, Option<&str>, Option<u32>)]) -> FakeSysfs {
        let root =
            std::env::temp_dir().join(format!("bulkhead-sysfs-{name}-{}", std::process::id()));
        for (device, driver, group) in devices {
            let folder = root.join("bus/pci/devices").join(device);
            std::fs::create_dir_all(&folder).unwrap();
            if let Some(driver) = driver {
                symlink(
                    Path::new("/sys/bus/pci/drivers").join(driver),
                    folder.join("driver"),
                )
                .unwrap();
            }
            if let Some(group) = group {
                symlink(
                    format!("/sys/kernel/iommu_groups/{group}"),
                    folder.join("iommu_group"),
                )
                .unwrap();
                let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
                std::fs::create_dir_all(&members).unwrap();
                symlink(&folder, members.join(device)).unwrap();
            }
        }
        FakeSysfs { root }
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::at(&self.root)
    }
}

impl Drop for FakeSysfs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn blockers_names_the_device_on_a_host_driver() {
    let fake = FakeSysfs::new(
        "blockers",
        &[
            ("0000:1a:00.0", Some("vfio-pci"), Some(12)),
            ("0000:1a:00.1", Some("hinic"), Some(12)),
            ("0000:1a:00.2", None, Some(12)),
            ("0000:00:01.0", Some("pcieport"), Some(12)),
            ("0000:1b:00.0", Some("e1000e"), Some(13)),
        ],
    );
    let found = blockers(&fake.sysfs(), 12);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "0000:1a:00.1 is bound to hinic");
    assert_eq!(pci_members(&fake.sysfs(), 12).len(), 4);
}

#[test]
fn device_without_iommu_group_has_none() {
    let fake = FakeSysfs::new("nogroup", &[("0000:00:04.0", Some("nvme"), None)]);
    let device = HostDevice::read(&fake.sysfs(), "0000:00:04.0".parse().unwrap()).unwrap();
    assert_eq!(device.group, None);
    assert_eq!(device.driver.as_deref(), Some("nvme"));
    assert!(!device.bound_to_vfio);
}

#[test]
fn device_on_a_vfio_variant_driver_is_bound_to_vfio() {
    let fake = FakeSysfs::new(
        "variant",
        &[("0000:00:04.0", Some("mlx5_vfio_pci"), Some(3))],
    );
    let device = HostDevice::read(&fake.sysfs(), "00:04.0".parse().unwrap()).unwrap();
    assert_eq!(device.group, Some(3));
    assert!(device.bound_to_vfio);
}

#[test]
fn device_that_is_not_there_is_missing() {
    let fake = FakeSysfs::new("missing", &[]);
    let error = HostDevice::read(&fake.sysfs(), "0000:00:09.0".parse().unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::Missing(_)));
}

#[test]
fn group_of_no_iommu_mode_is_told_apart() {
    let fake = FakeSysfs::new(
        "noiommu",
        &[
            ("0000:00:04.0", Some("vfio-pci"), Some(0)),
            ("0000:00:05.0", Some("vfio-pci"), Some(1)),
        ],
    );
    let name = fake.root.join("kernel/iommu_groups/0/name");
    std::fs::write(name, "vfio-noiommu\n").unwrap();
    assert!(is_noiommu(&fake.sysfs(), 0));
    assert!(!is_noiommu(&fake.sysfs(), 1));
}
