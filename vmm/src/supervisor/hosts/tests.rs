use std::os::unix::fs::symlink;

use super::*;

/// A folder that looks like sysfs: (address, group, driver).
struct FakeSysfs(PathBuf);

impl FakeSysfs {
    fn new(name: &str, devices: &[(&str, Option<u32>, Option<&str>)]) -> FakeSysfs {
        let root =
            std::env::temp_dir().join(format!("bulkhead-hosts-{}-{name}", std::process::id()));
        for (address, group, driver) in devices {
            let folder = root.join("bus/pci/devices").join(address);
            std::fs::create_dir_all(&folder).unwrap();
            if let Some(group) = group {
                let group_folder = root.join(format!("kernel/iommu_groups/{group}"));
                std::fs::create_dir_all(&group_folder).unwrap();
                symlink(group_folder, folder.join("iommu_group")).unwrap();
            }
            if let Some(driver) = driver {
                symlink(
                    format!("../../../bus/pci/drivers/{driver}"),
                    folder.join("driver"),
                )
                .unwrap();
            }
        }
        FakeSysfs(root)
    }
}

impl Drop for FakeSysfs {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn device(id: &str, host: &str) -> HostDevice {
    HostDevice {
        id: id.to_owned(),
        host: host.parse().unwrap(),
        options: HostOptions::default(),
    }
}

#[test]
fn devices_are_sorted_by_group() {
    let sysfs = FakeSysfs::new(
        "sorted",
        &[
            ("0000:00:04.0", Some(3), Some("vfio-pci")),
            ("0000:00:05.0", Some(7), Some("mlx5_vfio_pci")),
            ("0000:00:04.1", Some(3), Some("vfio-pci")),
        ],
    );
    let devices = [
        device("a", "0000:00:05.0"),
        device("b", "0000:00:04.0"),
        device("c", "0000:00:04.1"),
    ];
    let groups = by_group(&sysfs.0, &devices).unwrap();
    let shown: Vec<_> = groups
        .iter()
        .map(|group| (group.number, group.hosts()))
        .collect();
    assert_eq!(
        shown,
        [
            (3, "0000:00:04.0, 0000:00:04.1".to_owned()),
            (7, "0000:00:05.0".to_owned())
        ]
    );
}

#[test]
fn no_reset_is_allowed_only_if_it_is_for_every_device_of_the_group() {
    let mut group = HostGroup {
        number: 1,
        devices: vec![device("a", "0000:00:04.0"), device("b", "0000:00:04.1")],
    };
    group.devices[0].options.allow_no_reset = true;
    assert!(!group.allow_no_reset());
    group.devices[1].options.allow_no_reset = true;
    assert!(group.allow_no_reset());
}

#[test]
fn unusable_devices_are_named_with_what_to_do() {
    let sysfs = FakeSysfs::new(
        "unusable",
        &[
            ("0000:00:04.0", None, Some("vfio-pci")),
            ("0000:00:05.0", Some(1), None),
            ("0000:00:06.0", Some(2), Some("nvme")),
            ("0000:00:07.0", Some(3), Some("vfio-pci")),
        ],
    );
    std::fs::write(sysfs.0.join("kernel/iommu_groups/3/name"), "vfio-noiommu\n").unwrap();
    for (host, expected) in [
        ("0000:00:03.0", "no such PCI device"),
        ("0000:00:04.0", "turn the IOMMU on"),
        ("0000:00:05.0", "host bind 0000:00:05.0"),
        ("0000:00:06.0", "in use by its host driver nvme"),
        ("0000:00:07.0", "noiommu"),
    ] {
        let error = by_group(&sysfs.0, &[device("net", host)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains(host) && error.contains("net"),
            "{error}"
        );
    }
}

#[test]
fn device_given_twice_is_refused_with_both_ids() {
    let sysfs = FakeSysfs::new("twice", &[("0000:00:04.0", Some(1), Some("vfio-pci"))]);
    let error = by_group(
        &sysfs.0,
        &[device("a", "0000:00:04.0"), device("b", "00:04.0")],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "host device 0000:00:04.0 is given twice, with ids a and b: a device can be passed once"
    );
}

#[test]
fn policy_may_name_any_device_that_is_there_and_no_other() {
    let sysfs = FakeSysfs::new("allowed", &[("0000:00:04.0", None, None)]);
    let [there, missing] = ["0000:00:04.0", "0000:00:07.0"].map(|text| text.parse().unwrap());
    check_allowed(&sysfs.0, [&there]).unwrap();
    let error = check_allowed(&sysfs.0, [&there, &missing]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("-device-policy allow-host=0000:00:07.0: there is no such PCI device"),
        "{text}"
    );
}

#[test]
fn device_has_left_vfio_when_it_is_there_and_another_driver_or_none_has_it() {
    let sysfs = FakeSysfs::new(
        "left",
        &[
            ("0000:00:04.0", Some(3), Some("vfio-pci")),
            ("0000:00:05.0", Some(4), Some("nvme")),
            ("0000:00:06.0", Some(5), None),
        ],
    );
    let left = ["04", "05", "06", "07"].map(|slot| {
        let host = format!("0000:00:{slot}.0").parse().unwrap();
        has_left_vfio(&sysfs.0, host)
    });
    assert_eq!(left, [false, true, true, false]);
}
