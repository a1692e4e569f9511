//! Host devices by their IOMMU group, as sysfs has them, and what sysfs shows that keeps them from being passed.
//!
//! One device server serves one group. What the kernel says only to an ioctl, such as what a device can do, is the device
//! server's to find out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use protocol::pci::PciAddress;
use protocol::supervisor::HostOptions;

/// Where sysfs is mounted.
pub(super) const SYSFS: &str = "/sys";
/// Where the VFIO nodes are.
pub(super) const VFIO_NODES: &str = "/dev/vfio";
/// Modules of which one programs the IOMMU.
const IOMMU_MODULES: [&str; 2] = ["vfio_iommu_type1", "iommufd"];
/// What a driver that serves VFIO has in its name (vfio-pci, mlx5_vfio_pci, nvgrace_gpu_vfio_pci).
const VFIO_DRIVER: &str = "vfio";

/// A host device that is to be passed under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostDevice {
    pub(super) id: String,
    pub(super) host: PciAddress,
    pub(super) options: HostOptions,
}

/// The devices of one IOMMU group that one VM gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostGroup {
    pub(super) number: u32,
    pub(super) devices: Vec<HostDevice>,
}

/// Why a host device cannot be passed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error(
        "host device {host} (id {id}): there is no such PCI device; `lspci -D` lists those that the host has"
    )]
    Missing { id: String, host: PciAddress },
    #[error(
        "-device-policy allow-host={host}: there is no such PCI device; `lspci -D` lists those that the host has"
    )]
    NotToAllow { host: PciAddress },
    #[error(
        "host device {host} (id {id}) is in no IOMMU group: turn the IOMMU on (firmware, and intel_iommu=on or \
         amd_iommu=on on the host's kernel command line); `ls /sys/kernel/iommu_groups` then lists groups"
    )]
    NoGroup { id: String, host: PciAddress },
    #[error(
        "host device {host} (id {id}) has no driver: bind it to vfio-pci first: `bulkhead-device-server host bind {host}`"
    )]
    NoDriver { id: String, host: PciAddress },
    #[error(
        "host device {host} (id {id}) is in use by its host driver {driver}: bind it to vfio-pci first: \
         `bulkhead-device-server host bind {host}`"
    )]
    OtherDriver {
        id: String,
        host: PciAddress,
        driver: String,
    },
    #[error(
        "host device {host} (id {id}) is in a noiommu group: no IOMMU keeps it out of the host's memory; it is not passed"
    )]
    NoIommu { id: String, host: PciAddress },
    #[error(
        "host device {host} is given twice, with ids {first} and {second}: a device can be passed once"
    )]
    Twice {
        host: PciAddress,
        first: String,
        second: String,
    },
    #[error(
        "host device {host} (id {id}) has no node of its own below /dev/vfio/devices, which Linux has since 6.6 with \
         CONFIG_VFIO_DEVICE_CDEV: start the VM with -iommu-backend type1"
    )]
    NoDeviceNode { id: String, host: PciAddress },
    #[error(
        "group {group} ({hosts}) is not viable: {blockers}; bind it to vfio-pci or pass it too"
    )]
    NotViable {
        group: u32,
        hosts: String,
        blockers: String,
    },
    #[error(
        "{module} is loaded with allow_unsafe_interrupts=Y, which lets {hosts} send any interrupt to the host: not passed; \
         write N to /sys/module/{module}/parameters/allow_unsafe_interrupts"
    )]
    UnsafeInterrupts { module: &'static str, hosts: String },
    #[error("read {path}")]
    Sysfs {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "open {path}: it is open in another process: another VM or device server serves IOMMU group {group} \
         (device {hosts}); end that one first"
    )]
    Busy {
        path: PathBuf,
        group: u32,
        hosts: String,
    },
    #[error("open {path} for device {hosts}: {advice}")]
    Node {
        path: PathBuf,
        hosts: String,
        advice: &'static str,
        #[source]
        source: io::Error,
    },
}

impl HostGroup {
    /// Whether its server may serve devices that cannot be reset: only if that is acceptable for each of them.
    pub(super) fn allow_no_reset(&self) -> bool {
        self.devices
            .iter()
            .all(|device| device.options.allow_no_reset)
    }

    /// Whether its server may serve devices whose DMA may bypass caches: likewise.
    pub(super) fn allow_noncoherent(&self) -> bool {
        self.devices
            .iter()
            .all(|device| device.options.allow_noncoherent)
    }

    /// The addresses, for messages.
    pub(super) fn hosts(&self) -> String {
        let hosts: Vec<String> = self
            .devices
            .iter()
            .map(|device| device.host.to_string())
            .collect();
        hosts.join(", ")
    }
}

/// Sorts devices into their groups. `sysfs` is the mount point.
pub(super) fn by_group(sysfs: &Path, devices: &[HostDevice]) -> Result<Vec<HostGroup>, HostError> {
    let mut groups: BTreeMap<u32, HostGroup> = BTreeMap::new();
    for (index, device) in devices.iter().enumerate() {
        if let Some(other) = devices
            .iter()
            .take(index)
            .find(|other| other.host == device.host)
        {
            let (first, second) = (other.id.clone(), device.id.clone());
            return Err(HostError::Twice {
                host: device.host,
                first,
                second,
            });
        }
        let number = group_of(sysfs, device)?;
        let group = groups.entry(number).or_insert(HostGroup {
            number,
            devices: Vec::new(),
        });
        group.devices.push(device.clone());
    }
    let groups: Vec<HostGroup> = groups.into_values().collect();
    for group in &groups {
        check_interrupts(sysfs, group)?;
        check_viable(sysfs, group)?;
    }
    Ok(groups)
}

/// The operator must not have turned off the kernel's check that devices cannot forge interrupts.
fn check_interrupts(sysfs: &Path, group: &HostGroup) -> Result<(), HostError> {
    for module in IOMMU_MODULES {
        let parameter = sysfs.join(format!(
            "module/{module}/parameters/allow_unsafe_interrupts"
        ));
        if std::fs::read_to_string(parameter).is_ok_and(|value| value.trim() == "Y") {
            let hosts = group.hosts();
            return Err(HostError::UnsafeInterrupts { module, hosts });
        }
    }
    Ok(())
}

/// No device of the group may be the host's.
fn check_viable(sysfs: &Path, group: &HostGroup) -> Result<(), HostError> {
    let folder = sysfs.join(format!("kernel/iommu_groups/{}/devices", group.number));
    let mut blockers = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Some(driver) = link_name(&entry.path().join("driver"))?
            && !leaves_dma_alone(&driver)
        {
            let device = entry.file_name().to_string_lossy().into_owned();
            blockers.push(format!("{device} is bound to {driver}"));
        }
    }
    if blockers.is_empty() {
        return Ok(());
    }
    blockers.sort();
    Err(HostError::NotViable {
        group: group.number,
        hosts: group.hosts(),
        blockers: blockers.join(", "),
    })
}

/// Whether devices with this driver do not keep their group from VFIO (Linux `Documentation/driver-api/vfio.rst`).
fn leaves_dma_alone(driver: &str) -> bool {
    driver.contains(VFIO_DRIVER) || matches!(driver, "pci-stub" | "pcieport" | "shpchp")
}

/// A policy that names a device which is not there is a typing error that nobody would see otherwise.
pub(super) fn check_allowed<'a>(
    sysfs: &Path,
    hosts: impl IntoIterator<Item = &'a PciAddress>,
) -> Result<(), HostError> {
    let missing = |host: &&PciAddress| !folder_of(sysfs, **host).exists();
    match hosts.into_iter().find(missing) {
        Some(host) => Err(HostError::NotToAllow { host: *host }),
        None => Ok(()),
    }
}

pub(super) fn folder_of(sysfs: &Path, host: PciAddress) -> PathBuf {
    sysfs.join("bus/pci/devices").join(host.to_string())
}

fn group_of(sysfs: &Path, device: &HostDevice) -> Result<u32, HostError> {
    let (id, host) = (device.id.clone(), device.host);
    let folder = folder_of(sysfs, host);
    if !folder.exists() {
        return Err(HostError::Missing { id, host });
    }
    let group = link_name(&folder.join("iommu_group"))?.and_then(|name| name.parse::<u32>().ok());
    let Some(group) = group else {
        return Err(HostError::NoGroup { id, host });
    };
    let kind = std::fs::read_to_string(sysfs.join(format!("kernel/iommu_groups/{group}/name")))
        .unwrap_or_default();
    if kind.trim() == "vfio-noiommu" {
        return Err(HostError::NoIommu { id, host });
    }
    match driver_of(&folder)? {
        None => Err(HostError::NoDriver { id, host }),
        Some(driver) if !is_vfio(&driver) => Err(HostError::OtherDriver { id, host, driver }),
        Some(_) => Ok(group),
    }
}

/// The driver of the device with this folder. None already while the kernel waits for the last user of a device that was unbound.
fn driver_of(folder: &Path) -> Result<Option<String>, HostError> {
    link_name(&folder.join("driver"))
}

fn is_vfio(driver: &str) -> bool {
    driver.contains(VFIO_DRIVER)
}

/// Whether a VFIO driver has the device.
pub(super) fn is_with_vfio(sysfs: &Path, host: PciAddress) -> bool {
    let driver = driver_of(&folder_of(sysfs, host));
    driver.is_ok_and(|driver| driver.is_some_and(|driver| is_vfio(&driver)))
}

/// Whether the device is there and no VFIO driver has it: somebody has unbound it. The kernel lets go of it at once, and resets it
/// when its last user has closed it.
pub(super) fn has_left_vfio(sysfs: &Path, host: PciAddress) -> bool {
    let folder = folder_of(sysfs, host);
    let driver = driver_of(&folder);
    folder.exists() && driver.is_ok_and(|driver| !driver.is_some_and(|driver| is_vfio(&driver)))
}

/// Whether the device is there and a driver that is not VFIO's has it, or it cannot be told.
pub(super) fn another_driver_has(sysfs: &Path, host: PciAddress) -> bool {
    let driver = driver_of(&folder_of(sysfs, host));
    !driver.is_ok_and(|driver| driver.is_none_or(|driver| is_vfio(&driver)))
}

/// The folders of the devices of a group that VFIO drivers have.
pub(super) fn vfio_devices(sysfs: &Path, group: u32) -> Vec<PathBuf> {
    let folder = sysfs.join(format!("kernel/iommu_groups/{group}/devices"));
    let is_vfio = |device: &PathBuf| {
        driver_of(device).is_ok_and(|driver| driver.is_some_and(|driver| is_vfio(&driver)))
    };
    std::fs::read_dir(folder)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(is_vfio)
                .collect()
        })
        .unwrap_or_default()
}

/// The last part of where a link points; `None` if there is no link.
fn link_name(path: &Path) -> Result<Option<String>, HostError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(target
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError::Sysfs {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
