//! An IOMMU group as sysfs shows it: the devices that the IOMMU cannot tell apart.
//!
//! Linux `Documentation/driver-api/vfio.rst`: a group can be used only when each of its devices is bound to a
//! VFIO driver, to a driver that does no DMA of its own (pci-stub, pcieport), or to none.

use std::fmt;

use protocol::PciAddress;

use super::device::{Sysfs, is_vfio_driver};

/// A device that keeps a group from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The device; sysfs names a device that is not a PCI one in its own way.
    pub device: String,
    /// The driver it is bound to.
    pub driver: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is bound to {}", self.device, self.driver)
    }
}

/// The devices of `group` whose drivers do not leave the group to VFIO.
pub fn blockers(sysfs: &Sysfs, group: u32) -> Vec<Blocker> {
    members(sysfs, group)
        .into_iter()
        .filter_map(|device| {
            let link = sysfs
                .path(&format!("kernel/iommu_groups/{group}/devices"))
                .join(&device)
                .join("driver");
            let driver = std::fs::read_link(link)
                .ok()?
                .file_name()?
                .to_string_lossy()
                .into_owned();
            (!leaves_dma_alone(&driver)).then_some(Blocker { device, driver })
        })
        .collect()
}

/// The PCI devices of `group`, by address.
pub fn pci_members(sysfs: &Sysfs, group: u32) -> Vec<PciAddress> {
    members(sysfs, group)
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Whether the group is the fake one that VFIO makes for a device without IOMMU ("unsafe no-IOMMU mode").
pub fn is_noiommu(sysfs: &Sysfs, group: u32) -> bool {
    let path = sysfs.path(&format!("kernel/iommu_groups/{group}/name"));
    std::fs::read_to_string(path).is_ok_and(|name| name.trim() == "vfio-noiommu")
}

fn members(sysfs: &Sysfs, group: u32) -> Vec<String> {
    sysfs.names(&format!("kernel/iommu_groups/{group}/devices"))
}

/// Whether devices with this driver do not keep a group from VFIO.
pub(super) fn leaves_dma_alone(driver: &str) -> bool {
    is_vfio_driver(driver) || matches!(driver, "pci-stub" | "pcieport" | "shpchp")
}

#[cfg(test)]
mod tests;
