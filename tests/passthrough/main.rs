//! A Linux guest uses real PCI devices that a separate device server owns. All of it runs in the lab.
//!
//! Lab machine: the standard one, with an NVMe disk and an e1000e, each in an IOMMU group of its own.

mod nvme;
mod e1000e;
mod two_devices;
mod machine;
mod kernel_upgrade;
mod fast_path;
mod confinement;
mod tables;
mod isolation;
mod unprivileged;
mod service;
mod telemetry;
