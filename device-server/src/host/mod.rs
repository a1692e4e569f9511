//! What the operator asks of the host, and what its sysfs and procfs say about PCI devices, IOMMU groups and their users.
//!
//! `bind`, `vfs` and what is below `rebind` write to sysfs, for the `host` subcommand only; a device server reads `device`,
//! `group` and `holders`, before its sandbox closes. Paths are built from parsed `PciAddress`es and numbers, never from
//! text that somebody gave. Not here: opening VFIO nodes (`backends/vfio`).

pub mod command;
mod check;
mod list;
mod bind;
mod vfs;
mod rebind;
mod kernel;
mod helper;
mod notes;
mod error;
mod usage;
mod network;
mod blocks;
mod names;
mod config_space;
mod roots;
pub mod group;
pub mod device;
pub mod holders;

pub use bind::Request as BindRequest;
pub use kernel::Step;
pub use notes::Before;
pub use vfs::Request as VfsRequest;

#[cfg(test)]
mod fake;
