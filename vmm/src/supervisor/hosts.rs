//! Host devices by their IOMMU group, as sysfs has them, and the VFIO nodes of a group.
//!
//! One device server serves one group. Nothing here is an ioctl: whether a group is viable and what a device can do is
//! the device server's to find out; this only tells early what sysfs shows at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use protocol::pci::PciAddress;
use protocol::supervisor::HostOptions;

/// Where sysfs is mounted.
pub(super) const SYSFS: &str = "/sys";
/// Where the VFIO nodes are.
pub(super) const VFIO_NODES: &str = "/dev/vfio";
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

    /// The addresses, for messages.
    pub(super) fn hosts(&self) -> String {
        let hosts: Vec<String> = self
            .devices
            .iter()
            .map(|device| device.host.to_string())
            .collect();
        hosts.join(", ")
    }

    /// Opens the container and the group node. Every ioctl on them is the device server's.
    pub(super) fn open_nodes(&self) -> Result<(OwnedFd, OwnedFd), HostError> {
        let group = self.open_node(&Path::new(VFIO_NODES).join(self.number.to_string()))?;
        let container = self.open_node(&Path::new(VFIO_NODES).join("vfio"))?;
        Ok((container, group))
    }

    fn open_node(&self, path: &Path) -> Result<OwnedFd, HostError> {
        let source = match File::options().read(true).write(true).open(path) {
            Ok(file) => return Ok(file.into()),
            Err(error) => error,
        };
        let (path, hosts) = (path.to_owned(), self.hosts());
        if source.kind() == io::ErrorKind::ResourceBusy {
            return Err(HostError::Busy {
                path,
                group: self.number,
                hosts,
            });
        }
        let advice = if source.kind() == io::ErrorKind::NotFound {
            "load the VFIO modules: `modprobe vfio-pci vfio_iommu_type1`"
        } else {
            "run as root, or make this user the owner of the node"
        };
        Err(HostError::Node {
            path,
            hosts,
            advice,
            source,
        })
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
    Ok(groups.into_values().collect())
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

fn folder_of(sysfs: &Path, host: PciAddress) -> PathBuf {
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
    match link_name(&folder.join("driver"))? {
        None => Err(HostError::NoDriver { id, host }),
        Some(driver) if !driver.contains(VFIO_DRIVER) => {
            Err(HostError::OtherDriver { id, host, driver })
        }
        Some(_) => Ok(group),
    }
}

/// The folders of the devices of a group that VFIO drivers have.
pub(super) fn vfio_devices(sysfs: &Path, group: u32) -> Vec<PathBuf> {
    let folder = sysfs.join(format!("kernel/iommu_groups/{group}/devices"));
    let is_vfio = |device: &PathBuf| {
        let driver = link_name(&device.join("driver"));
        driver.is_ok_and(|driver| driver.is_some_and(|driver| driver.contains(VFIO_DRIVER)))
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
