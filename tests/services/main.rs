//! Device servers and VMs as services of systemd, with the units, rules and users of `packaging/`.
//!
//! Lab machine: the standard one with systemd as process 1, and `packaging` copied in. Tenants: `blue` has the NVMe disk, `green` the
//! e1000e.

mod orders;
mod tenants;
mod hot_plug;
mod iommufd;
mod reboot;
mod hardening;
mod attempts;
mod installed;
