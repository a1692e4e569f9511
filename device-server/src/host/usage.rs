//! What the host uses a PCI device for: file systems, swap, the default route, a virtual machine, virtual functions.
//!
//! Taking the device away would take that away. Read once for all devices; who has files open is known as far as
//! /proc shows it.

use std::fmt;
use std::path::PathBuf;

use super::blocks::{self, Mount};
use super::device::{HostDevice, folder, virtual_functions};
use super::holders::{self, Holder, holders_in};
use super::network;
use super::roots::Roots;

/// One way in which the host uses a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use {
    /// A file system on one of its disks is mounted.
    Mounted {
        /// The disk or partition.
        disk: String,
        /// Where.
        place: String,
    },
    /// The host swaps to one of its disks.
    Swap {
        /// The disk or partition.
        disk: String,
    },
    /// The kernel has claimed one of its disks: RAID, a volume group, a ZFS pool, a mount in another namespace.
    Claimed {
        /// The disk.
        disk: String,
    },
    /// A process has one of its disks open.
    DiskOpen {
        /// The disk.
        disk: String,
        /// The process.
        holder: Holder,
    },
    /// The default route goes through one of its network interfaces.
    DefaultRoute {
        /// The device's interface.
        interface: String,
        /// The interface that the route names: itself, or a bridge or bond above it.
        route: String,
    },
    /// A process has the device open through VFIO: a device server, a virtual machine.
    Vfio {
        /// The process; none where the kernel says "busy" and /proc does not show who.
        holder: Option<Holder>,
    },
    /// It has virtual functions, which end with its driver.
    VirtualFunctions {
        /// How many.
        count: u32,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Mounted { disk, place } => write!(f, "{disk} is mounted on {place}"),
            Use::Swap { disk } => write!(f, "the host swaps to {disk}"),
            Use::Claimed { disk } => {
                write!(
                    f,
                    "the kernel has claimed {disk} (RAID, volume, pool, or mounted in a container)"
                )
            }
            Use::DiskOpen { disk, holder } => write!(f, "{holder} has {disk} open"),
            Use::DefaultRoute { interface, route } if interface == route => {
                write!(f, "the default route goes through {interface}")
            }
            Use::DefaultRoute { interface, route } => {
                write!(f, "the default route goes through {route} and {interface}")
            }
            Use::Vfio {
                holder: Some(holder),
            } => write!(f, "{holder} has it open"),
            Use::Vfio { holder: None } => write!(f, "a process that cannot be seen has it open"),
            Use::VirtualFunctions { count } => write!(f, "it has {count} virtual functions"),
        }
    }
}

impl Use {
    /// What ends it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Use::Mounted { .. } => "unmount it",
            Use::Swap { .. } => "swapoff it",
            Use::Claimed { .. } => "stop what uses it",
            Use::DiskOpen { .. } => "end the process",
            Use::DefaultRoute { .. } => "route through another interface",
            Use::Vfio { .. } => "end the virtual machine or device server",
            Use::VirtualFunctions { .. } => "remove them with `host vfs ADDR 0`",
        }
    }
}

/// Several uses in one line.
pub(super) fn joined(uses: &[Use]) -> String {
    let texts: Vec<String> = uses.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// What the host mounts, swaps to, routes through and has open now.
#[derive(Debug)]
pub(super) struct Usage {
    roots: Roots,
    mounts: Vec<Mount>,
    swaps: Vec<String>,
    routes: Vec<String>,
    open: Vec<(Holder, PathBuf)>,
    claims: bool,
    /// Some process maps a BAR of some VFIO device.
    bars_are_mapped: bool,
}

impl Usage {
    /// Looks at the host.
    pub(super) fn read(roots: &Roots) -> Usage {
        let dev = roots.dev.clone();
        Usage {
            mounts: blocks::mounts(roots),
            swaps: blocks::swaps(roots),
            routes: network::default_routes(roots),
            open: holders_in(&roots.proc, &|file| file.starts_with(&dev)),
            claims: false,
            bars_are_mapped: holders::maps_bars_in(&roots.proc),
            roots: roots.clone(),
        }
    }

    /// Also tries each disk: whether the kernel has claimed it. That claims it for a moment, so not for many disks.
    pub(super) fn with_claims(mut self) -> Usage {
        self.claims = true;
        self
    }

    /// What the host uses `device` for.
    pub(super) fn of(&self, device: &HostDevice) -> Vec<Use> {
        let mut uses = Vec::new();
        if let Ok(path) = folder(&self.roots.sysfs, device.address).canonicalize() {
            for disk in blocks::disks_on(&self.roots, &path) {
                self.add_uses_of_disk(&disk, &mut uses);
            }
            uses.extend(network::uses(&self.roots, &path, &self.routes));
        }
        if device.bound_to_vfio {
            uses.extend(self.vfio_users(device).into_iter().map(|holder| Use::Vfio {
                holder: Some(holder),
            }));
        }
        let functions = virtual_functions(&self.roots.sysfs, device.address);
        if !functions.is_empty() {
            let count = u32::try_from(functions.len()).unwrap_or(u32::MAX);
            uses.push(Use::VirtualFunctions { count });
        }
        uses
    }

    fn add_uses_of_disk(&self, disk: &blocks::Disk, uses: &mut Vec<Use>) {
        let before = uses.len();
        let name = || disk.name.clone();
        for mount in self.mounts.iter().filter(|mount| mount.is_on(disk)) {
            let place = mount.place.clone();
            let found = Use::Mounted {
                disk: name(),
                place,
            };
            if !uses.contains(&found) {
                uses.push(found);
            }
        }
        if self.swaps.iter().any(|swap| disk.has_name(swap)) {
            uses.push(Use::Swap { disk: name() });
        }
        let node = self.roots.dev.join(&disk.name);
        for (holder, _) in self.open.iter().filter(|(_, file)| *file == node) {
            uses.push(Use::DiskOpen {
                disk: name(),
                holder: holder.clone(),
            });
        }
        let unexplained = uses.len() == before && !disk.has_partitions;
        if self.claims && unexplained && blocks::is_claimed(&node) {
            uses.push(Use::Claimed { disk: name() });
        }
    }

    /// The processes that have the group's or the device's node open.
    fn vfio_users(&self, device: &HostDevice) -> Vec<Holder> {
        let vfio = self.roots.dev.join("vfio");
        let mut nodes: Vec<PathBuf> = device
            .group
            .map(|group| vfio.join(group.to_string()))
            .into_iter()
            .collect();
        let cdevs = format!("bus/pci/devices/{}/vfio-dev", device.address);
        for name in self.roots.sysfs.names(&cdevs) {
            nodes.push(vfio.join("devices").join(name));
        }
        let mut users: Vec<Holder> = Vec::new();
        for (holder, file) in &self.open {
            if nodes.contains(file) && !users.contains(holder) {
                users.push(holder.clone());
            }
        }
        users
    }

    /// What `of` does not find: a device with VFIO that a process maps, or that a process has open which /proc does not
    /// show. Only an attempt to open the group tells. It is made only where /proc leaves a doubt, since a device
    /// server that starts at the same moment would find its group busy.
    pub(super) fn unseen_by_proc(&self, device: &HostDevice) -> Option<Use> {
        let group = device.group.filter(|_| device.bound_to_vfio)?;
        let seen = !self.vfio_users(device).is_empty();
        if seen || !(self.bars_are_mapped || holders::hides_processes(&self.roots.proc)) {
            return None;
        }
        let node = self.roots.dev.join("vfio").join(group.to_string());
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(node);
        let busy = opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
        busy.then_some(Use::Vfio { holder: None })
    }
}

#[cfg(test)]
mod tests;
