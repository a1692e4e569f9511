//! What the host's sysfs and procfs say about PCI devices, IOMMU groups and who holds them.
//!
//! Reading only. Paths are built from parsed `PciAddress`es and numbers, never from text that somebody gave.
//! Read before the sandbox closes; nothing here is needed once a client is served.

pub mod group;
pub mod device;
pub mod holders;
