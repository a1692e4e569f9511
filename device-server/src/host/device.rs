//! One PCI device as sysfs shows it: its driver, its IOMMU group, how it can be reset.
//!
//! Linux `Documentation/ABI/testing/sysfs-bus-pci`.

use std::io;
use std::path::{Path, PathBuf};

use protocol::PciAddress;

/// Where sysfs is mounted. Tests give a folder of their own.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The host's own.
    pub fn of_host() -> Sysfs {
        Sysfs {
            root: PathBuf::from("/sys"),
        }
    }

    /// A folder that looks like /sys.
    pub fn at(root: &Path) -> Sysfs {
        Sysfs {
            root: root.to_path_buf(),
        }
    }

    /// A path below the root.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// The content of a file, trimmed; `None` if it is not there or cannot be read.
    pub(super) fn text(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.path(below))
            .ok()
            .map(|text| text.trim().to_owned())
    }

    /// The names of what is in a folder, sorted; none if there is no such folder.
    pub(super) fn names(&self, below: &str) -> Vec<String> {
        names_in(&self.path(below))
    }

    /// The value of a kernel module's parameter; `None` if the module is not there.
    pub fn module_parameter(&self, module: &str, parameter: &str) -> Option<String> {
        self.text(&format!("module/{module}/parameters/{parameter}"))
    }
}

/// A PCI device that the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Its address.
    pub address: PciAddress,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group; none when there is no IOMMU or it is off.
    pub group: Option<u32>,
    /// Whether the driver is vfio-pci or a variant of it.
    pub bound_to_vfio: bool,
}

/// Why a device could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No such device.
    #[error("the host has no PCI device {0}; `lspci -D` lists those it has")]
    Missing(PciAddress),
    /// sysfs could not be read.
    #[error("read {path} of PCI device {address}")]
    Read {
        /// The device.
        address: PciAddress,
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl HostDevice {
    /// Looks at the device at `address`.
    pub fn read(sysfs: &Sysfs, address: PciAddress) -> Result<HostDevice, DeviceError> {
        let folder = folder(sysfs, address);
        if !folder.exists() {
            return Err(DeviceError::Missing(address));
        }
        let driver = link_name(address, &folder.join("driver"))?;
        let group =
            link_name(address, &folder.join("iommu_group"))?.and_then(|name| name.parse().ok());
        let bound_to_vfio =
            driver.as_deref().is_some_and(is_vfio_driver) || folder.join("vfio-dev").exists();
        Ok(HostDevice {
            address,
            driver,
            group,
            bound_to_vfio,
        })
    }
}

/// The name that VFIO gave a device that it has as a node of its own: "vfio3". `None` if it has none: Linux before 6.6 has no names,
/// and one without CONFIG_VFIO_DEVICE_CDEV has names without a node's number.
pub fn vfio_name(sysfs: &Sysfs, address: PciAddress) -> Option<String> {
    let folder = format!("bus/pci/devices/{address}/vfio-dev");
    let has_node = |name: &String| sysfs.path(&format!("{folder}/{name}/dev")).exists();
    sysfs.names(&folder).into_iter().find(has_node)
}

/// The number of the node of that name, as it has to be: major and minor.
pub fn vfio_node_number(sysfs: &Sysfs, address: PciAddress, name: &str) -> Option<(u32, u32)> {
    let text = attribute(sysfs, address, &format!("vfio-dev/{name}/dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// How the kernel can reset a device ("flr pm bus"): empty if not at all, `None` if the kernel does not say.
pub fn reset_methods(sysfs: &Sysfs, address: PciAddress) -> Option<String> {
    attribute(sysfs, address, "reset_method")
}

/// The folder of the device.
pub(super) fn folder(sysfs: &Sysfs, address: PciAddress) -> PathBuf {
    sysfs.path(&format!("bus/pci/devices/{address}"))
}

/// A file of the device, trimmed; `None` if it is not there or cannot be read.
pub(super) fn attribute(sysfs: &Sysfs, address: PciAddress, name: &str) -> Option<String> {
    sysfs.text(&format!("bus/pci/devices/{address}/{name}"))
}

/// A hexadecimal number such as "0x010802", as sysfs writes ids and classes.
pub(super) fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The PCI class code: class, subclass, programming interface.
pub(super) fn class(sysfs: &Sysfs, address: PciAddress) -> Option<u32> {
    hexadecimal(&attribute(sysfs, address, "class")?)
}

/// Whether the device is a PCI bridge: it stays with its driver when its group is passed.
pub(super) fn is_bridge(sysfs: &Sysfs, address: PciAddress) -> bool {
    const PCI_BRIDGE: u32 = 0x0604;
    class(sysfs, address).is_some_and(|class| class >> 8 == PCI_BRIDGE)
}

/// The names of what is in a folder, sorted; none if there is no such folder.
pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// vfio-pci and its variants: mlx5_vfio_pci, hisi_acc_vfio_pci, nvgrace-gpu-vfio-pci and so on.
pub(super) fn is_vfio_driver(name: &str) -> bool {
    name.replace('_', "-").ends_with("vfio-pci")
}

/// The last part of where a symbolic link points; `None` if there is no link.
pub(super) fn link_name(address: PciAddress, path: &Path) -> Result<Option<String>, DeviceError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DeviceError::Read {
            address,
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// The virtual functions of `address`, in order. Not by sriov_numvfs: whoever reads that waits, past every deadline and without
/// being killed, until a change of the number that is under way has ended.
pub(super) fn virtual_functions(sysfs: &Sysfs, address: PciAddress) -> Vec<PciAddress> {
    let device = folder(sysfs, address);
    (0..u32::MAX)
        .map_while(|index| link_name(address, &device.join(format!("virtfn{index}"))).ok()?)
        .filter_map(|name| name.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::vfio_name;
    use crate::host::fake::FakeHost;

    #[test]
    fn name_without_a_number_is_no_node() {
        let host = FakeHost::new();
        let name = || vfio_name(&host.roots.sysfs, "0000:00:04.0".parse().unwrap());
        host.file("sys/bus/pci/devices/0000:00:04.0/vfio-dev/vfio3/uevent", "");
        assert_eq!(name(), None);
        host.file(
            "sys/bus/pci/devices/0000:00:04.0/vfio-dev/vfio3/dev",
            "510:3\n",
        );
        assert_eq!(name().as_deref(), Some("vfio3"));
    }
}
