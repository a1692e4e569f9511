//! The devices that one server opens: all of one IOMMU group, and whether they may be served.
//!
//! A server that opens the nodes itself looks at sysfs before it opens any: refused are a device that is the host's, no IOMMU,
//! no-IOMMU mode, unsafe interrupts. A server that is given its nodes reads nothing: whoever opened them has looked, and
//! what the kernel refuses it refuses in both.

use std::fmt;
use std::path::{Path, PathBuf};

use protocol::PciAddress;

use super::error::OpenError;
use crate::host::device::{HostDevice, Sysfs, vfio_name};
use crate::host::group;
use crate::host::holders::{self, Holder};

/// Modules of which one programs the IOMMU, each with the parameter of this name.
const IOMMU_MODULES: [&str; 2] = ["vfio_iommu_type1", "iommufd"];
const UNSAFE_INTERRUPTS: &str = "allow_unsafe_interrupts";
/// Where devices have nodes of their own.
pub(super) const DEVICE_NODES: &str = "/dev/vfio/devices";

/// The devices, as far as messages need them.
#[derive(Debug, Clone)]
pub(super) struct Members {
    /// The first one.
    pub(super) first: PciAddress,
    /// Their group, if somebody looked.
    looked: Option<Looked>,
}

#[derive(Debug, Clone)]
struct Looked {
    sysfs: Sysfs,
    group: u32,
}

/// What messages call the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupName {
    /// By its number.
    Number(u32),
    /// By a device in it.
    Of(PciAddress),
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupName::Number(number) => write!(f, "group {number}"),
            GroupName::Of(address) => write!(f, "the IOMMU group of {address}"),
        }
    }
}

impl Members {
    /// Devices whose nodes somebody else has opened.
    pub(super) fn given(hosts: &[PciAddress]) -> Result<Members, OpenError> {
        let first = distinct(hosts)?;
        Ok(Members {
            first,
            looked: None,
        })
    }

    /// Looks at the host: all are in one group, whose number this is too, and each of them may be served.
    pub(super) fn look(sysfs: &Sysfs, hosts: &[PciAddress]) -> Result<(Members, u32), OpenError> {
        let first = distinct(hosts)?;
        let group = group_of(sysfs, first)?;
        for second in hosts.iter().copied() {
            let second_group = group_of(sysfs, second)?;
            if second_group != group {
                return Err(OpenError::TwoGroups {
                    first,
                    first_group: group,
                    second,
                    second_group,
                });
            }
        }
        let is_on = |module: &&str| {
            sysfs.module_parameter(module, UNSAFE_INTERRUPTS).as_deref() == Some("Y")
        };
        if let Some(module) = IOMMU_MODULES.into_iter().find(is_on) {
            return Err(OpenError::UnsafeInterrupts {
                address: first,
                module,
            });
        }
        let looked = Some(Looked {
            sysfs: sysfs.clone(),
            group,
        });
        Ok((Members { first, looked }, group))
    }

    /// sysfs and the number of the group, if this process opens the nodes itself.
    pub(super) fn host(&self) -> Option<(&Sysfs, u32)> {
        self.looked
            .as_ref()
            .map(|looked| (&looked.sysfs, looked.group))
    }

    /// What messages call their group.
    pub(super) fn group(&self) -> GroupName {
        match &self.looked {
            Some(looked) => GroupName::Number(looked.group),
            None => GroupName::Of(self.first),
        }
    }

    /// Somebody else has the group, or a device of it.
    pub(super) fn busy(&self) -> OpenError {
        OpenError::Busy {
            group: self.group(),
            holders: self.holders(),
        }
    }

    /// Who has a node of the group open, or else a BAR of some device mapped. Nobody, if this process does not look.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let Some((sysfs, number)) = self.host() else {
            return Vec::new();
        };
        let devices = group::pci_members(sysfs, number).into_iter();
        let mut nodes: Vec<PathBuf> = devices
            .filter_map(|address| vfio_name(sysfs, address))
            .map(|name| Path::new(DEVICE_NODES).join(name))
            .collect();
        nodes.push(group_node(number));
        let open: Vec<Holder> = nodes
            .iter()
            .flat_map(|node| holders::holders_of(node))
            .collect();
        if open.is_empty() {
            return holders::holders_of_bar_mappings();
        }
        open
    }

    /// A device of the group is the host's, if it can be found.
    pub(super) fn not_viable(&self) -> OpenError {
        OpenError::NotViable {
            group: self.group(),
            blockers: self.blockers(),
        }
    }

    /// The group's devices that are the host's.
    pub(super) fn blockers(&self) -> Vec<group::Blocker> {
        self.host()
            .map(|(sysfs, number)| group::blockers(sysfs, number))
            .unwrap_or_default()
    }
}

/// The node of a group.
pub(super) fn group_node(number: u32) -> PathBuf {
    Path::new("/dev/vfio").join(number.to_string())
}

fn distinct(hosts: &[PciAddress]) -> Result<PciAddress, OpenError> {
    for (index, address) in hosts.iter().copied().enumerate() {
        if hosts.iter().take(index).any(|earlier| *earlier == address) {
            return Err(OpenError::Twice(address));
        }
    }
    hosts.first().copied().ok_or(OpenError::NoDevices)
}

/// The group of a device that may be served.
fn group_of(sysfs: &Sysfs, address: PciAddress) -> Result<u32, OpenError> {
    let device = HostDevice::read(sysfs, address)?;
    let number = device.group.ok_or(OpenError::NoIommu(address))?;
    if group::is_noiommu(sysfs, number) {
        return Err(OpenError::NoIommuMode(address));
    }
    if !device.bound_to_vfio {
        return Err(OpenError::NotBound {
            address,
            driver: device.driver,
        });
    }
    Ok(number)
}
