//! Which of the kernel's two ways to the IOMMU a server takes.
//!
//! iommufd with device nodes, where the kernel maps guest memory from its file: this process never maps any. Else VFIO's
//! groups with a type1 container.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use protocol::PciAddress;

use super::error::OpenError;
use super::group::GroupFds;
use super::iommufd::maps_files;
use super::members::Members;
use super::node::{DeviceNode, open_node};
use super::{GivenFds, WantedDevice};
use crate::host::device::{Sysfs, vfio_name};

const IOMMUFD_NODE: &str = "/dev/iommu";

/// The way that is taken, with what it takes.
#[derive(Debug)]
pub(super) enum Way {
    /// Through the group.
    Type1(GroupFds),
    /// Through an iommufd.
    Iommufd(IommufdFds),
}

/// An iommufd, and devices for it.
#[derive(Debug)]
pub(super) struct IommufdFds {
    /// /dev/iommu.
    pub(super) iommufd: OwnedFd,
    /// The descriptor of each device, and its node if it can be opened again.
    pub(super) devices: Vec<(OwnedFd, Option<DeviceNode>)>,
    /// Whether the group came with them. It is closed here, but whoever passed it may hold its own copy a moment longer, and
    /// while a group is open its devices cannot be bound.
    pub(super) group_came_too: bool,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IommuBackend {
    /// iommufd if it can map files, else type1.
    Auto,
    /// iommufd, or no start.
    Iommufd,
    /// A type1 container.
    Type1,
}

impl FromStr for IommuBackend {
    type Err = String;

    fn from_str(text: &str) -> Result<IommuBackend, String> {
        match text {
            "auto" => Ok(IommuBackend::Auto),
            "iommufd" => Ok(IommuBackend::Iommufd),
            "type1" => Ok(IommuBackend::Type1),
            _ => Err(format!("{text}: write auto, iommufd or type1")),
        }
    }
}

impl fmt::Display for IommuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IommuBackend::Auto => "auto",
            IommuBackend::Iommufd => "iommufd",
            IommuBackend::Type1 => "type1",
        })
    }
}

/// Decides. What was given is taken; without anything this process looks for the nodes itself.
pub(super) fn choose(
    wanted: &mut [WantedDevice],
    backend: IommuBackend,
    given: GivenFds,
) -> Result<(Members, Way), OpenError> {
    let hosts: Vec<PciAddress> = wanted.iter().map(|device| device.address).collect();
    let nodes: Vec<OwnedFd> = wanted
        .iter_mut()
        .filter_map(|device| device.node.take())
        .collect();
    if nodes.is_empty() && given.are_none() {
        let sysfs = Sysfs::of_host();
        let (members, number) = Members::look(&sysfs, &hosts)?;
        let way = look(&sysfs, &members, number, &hosts, backend)?;
        return Ok((members, way));
    }
    let members = Members::given(&hosts)?;
    let group = match (given.container, given.group) {
        (Some(container), Some(group)) => Some(GroupFds { container, group }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(OpenError::HalfTheFds),
    };
    let iommufd = match given.iommufd {
        Some(iommufd) if nodes.len() == hosts.len() => Some((iommufd, nodes)),
        None if nodes.is_empty() => None,
        Some(_) | None => return Err(OpenError::HalfTheFds),
    };
    let way = take(&members, backend, group, iommufd)?;
    Ok((members, way))
}

/// Of what was given, what the operator wants and the kernel can do. The rest is closed.
fn take(
    members: &Members,
    backend: IommuBackend,
    group: Option<GroupFds>,
    iommufd: Option<(OwnedFd, Vec<OwnedFd>)>,
) -> Result<Way, OpenError> {
    let other = OpenError::OtherFds { wanted: backend };
    // Also where it is closed below: the kernel may take a moment to let go of it.
    let group_came_too = group.is_some();
    let iommufd = iommufd.filter(|_| backend != IommuBackend::Type1);
    let group = group.filter(|_| backend != IommuBackend::Iommufd);
    if let Some((iommufd, nodes)) = iommufd {
        if can_map_files(members, &iommufd)? {
            return Ok(Way::Iommufd(IommufdFds {
                iommufd,
                devices: nodes.into_iter().map(|node| (node, None)).collect(),
                group_came_too,
            }));
        }
        return group
            .map(Way::Type1)
            .ok_or(OpenError::NoMapFile(members.first));
    }
    group.map(Way::Type1).ok_or(other)
}

/// Opens the nodes.
fn look(
    sysfs: &Sysfs,
    members: &Members,
    number: u32,
    hosts: &[PciAddress],
    backend: IommuBackend,
) -> Result<Way, OpenError> {
    let type1 = || GroupFds::open(members, number).map(Way::Type1);
    let iommufd = match backend {
        IommuBackend::Type1 => return type1(),
        IommuBackend::Iommufd => {
            let iommufd = open_node(members.first, Path::new(IOMMUFD_NODE))?;
            if !can_map_files(members, &iommufd)? {
                return Err(OpenError::NoMapFile(members.first));
            }
            iommufd
        }
        IommuBackend::Auto => match usable_iommufd(sysfs, members, hosts)? {
            Some(iommufd) => iommufd,
            None => return type1(),
        },
    };
    let mut devices = Vec::new();
    for address in hosts {
        let (node, device) = DeviceNode::open_first(sysfs, *address)?;
        devices.push((device, Some(node)));
    }
    Ok(Way::Iommufd(IommufdFds {
        iommufd,
        devices,
        group_came_too: false,
    }))
}

/// An iommufd that can be taken, where there is one.
fn usable_iommufd(
    sysfs: &Sysfs,
    members: &Members,
    hosts: &[PciAddress],
) -> Result<Option<OwnedFd>, OpenError> {
    let has_node = |address: &PciAddress| vfio_name(sysfs, *address).is_some();
    let Ok(iommufd) = open_node(members.first, Path::new(IOMMUFD_NODE)) else {
        return Ok(None);
    };
    let usable = hosts.iter().all(has_node) && can_map_files(members, &iommufd)?;
    Ok(usable.then_some(iommufd))
}

fn can_map_files(members: &Members, iommufd: &OwnedFd) -> Result<bool, OpenError> {
    maps_files(iommufd.as_fd()).map_err(OpenError::step(
        "ask what iommufd can do, for a server",
        members.first,
    ))
}

impl GivenFds {
    fn are_none(&self) -> bool {
        self.container.is_none() && self.group.is_none() && self.iommufd.is_none()
    }
}
