//! `bulkhead-device-server host ...` on a real host: what it says, what it refuses, and who has the device afterwards.
//! All of it runs in the lab.
//!
//! Lab machine: the NVMe disk and the NIC of every lab; at 0000:00:0a.0 and 0000:00:0a.1 two serial cards in one IOMMU
//! group; at 0000:01:00.0 an NVMe controller with two virtual functions; mke2fs; at 0000:00:06.0 a
//! virtio NIC. The NVMe disk is written to.

mod bind;
mod group;
mod in_use;
mod interrupted;
mod refused;
mod slow_driver;
mod virtual_functions;
mod check;
mod operator;
