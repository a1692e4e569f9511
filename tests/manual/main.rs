//! The user manual, docs/vfio.md, run from its first command to its last; and the commands of the manual that it replaces.
//!
//! Lab machine: systemd, `packaging` and curl copied in; at 0000:1a:00.0 and 0000:1a:00.3 two NVMe controllers in one IOMMU group, as the
//! two functions of a card that the manual speaks of; at 0000:01:00.0 one with two virtual functions.

mod whole;
mod run;
mod host;
mod session;
mod dialogue;
mod shown;
mod document;
