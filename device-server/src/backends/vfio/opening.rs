//! Opens the devices one of the two ways, and says which descriptors they need from then on.

use std::any::Any;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use sandbox::roles::vfio::{IommuDescriptor, Renewal as RenewalDescriptor, VfioDescriptors};
use sandbox::roles::{Folder, Need};

use super::WantedDevice;
use super::choice::IommufdFds;
use super::coherency::{self, Coherency};
use super::device::VfioDevice;
use super::dma::Iommu;
use super::error::OpenError;
use super::file_maps::FileMaps;
use super::group::{Group, GroupFds};
use super::iommufd::Iommufd;
use super::members::Members;
use super::renewal::Renewal;
use super::type1::Type1;

/// How long the group may stay open after it was closed here (see `IommufdFds::group_came_too`). It takes no longer than
/// whoever passed it is kept from running.
const GROUP_CLOSES: Duration = Duration::from_secs(1);

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// A device that cannot be reset.
    pub(super) no_reset: bool,
    /// A device whose DMA may bypass the CPU's caches where the guest cannot do so.
    pub(super) noncoherent: bool,
}

/// Open devices.
pub(super) struct Opened {
    /// In the order in which they were wanted.
    pub(super) devices: Vec<VfioDevice>,
    /// What maps memory for them.
    pub(super) iommu: Box<dyn Iommu>,
    /// The group or the iommufd, which stays open as long as a device does.
    pub(super) authority: Arc<dyn Any + Send + Sync>,
    descriptor: IommuDescriptor,
}

/// A group that can map memory, and no device of it is open yet.
pub(super) struct Prepared {
    pub(super) group: Arc<Group>,
    pub(super) coherency: Coherency,
    pub(super) type1: Type1,
}

/// Gives the group its container.
pub(super) fn prepare(members: &Members, fds: GroupFds) -> Result<Prepared, OpenError> {
    let group = Arc::new(Group::new(members, fds)?);
    let enforced = group.enforces_coherency().map_err(OpenError::step(
        "ask what the IOMMU can do for DMA",
        members.first,
    ))?;
    let coherency = if enforced {
        Coherency::Enforced
    } else {
        Coherency::NotEnforced("its IOMMU has no snoop control")
    };
    // Before any device is open: what a device lends would come between, and the numbers that it gets would depend on it.
    let container = group.container().try_clone_to_owned();
    let type1 = Type1::new(container.map_err(OpenError::step(
        "duplicate the container's file descriptor",
        members.first,
    ))?);
    Ok(Prepared {
        group,
        coherency,
        type1,
    })
}

/// Through the nodes of the group.
pub(super) fn through_group(
    members: &Members,
    fds: GroupFds,
    wanted: &[WantedDevice],
    allowed: Allowed,
) -> Result<Opened, OpenError> {
    let Prepared {
        group,
        coherency,
        type1,
    } = prepare(members, fds)?;
    let mut devices = Vec::new();
    for device in wanted {
        let address = device.address;
        let accepted = coherency::check(address, coherency, allowed.noncoherent)?;
        let fd = group
            .open_device(address)
            .map_err(OpenError::step("open VFIO device", address))?;
        let renewal = if device.renewed {
            Renewal::from_group(&group, address)
                .map_err(OpenError::step("prepare for the next client", address))?
        } else {
            Renewal::Never
        };
        devices.push(VfioDevice::new(
            members,
            device,
            fd,
            renewal,
            allowed.no_reset,
        )?);
        accepted.log();
    }
    Ok(Opened {
        devices,
        descriptor: IommuDescriptor::Type1(type1.number()),
        iommu: Box::new(type1),
        authority: group,
    })
}

/// Through an iommufd and the devices' own nodes.
pub(super) fn through_iommufd(
    members: &Members,
    fds: IommufdFds,
    wanted: &[WantedDevice],
    allowed: Allowed,
) -> Result<Opened, OpenError> {
    let patience = if fds.group_came_too {
        GROUP_CLOSES
    } else {
        Duration::ZERO
    };
    let iommufd = Iommufd::new(fds.iommufd)
        .map_err(OpenError::step("make an address space", members.first))?;
    let iommufd = Arc::new(iommufd);
    let mut devices = Vec::new();
    for (device, (fd, node)) in wanted.iter().zip(fds.devices) {
        let address = device.address;
        let renewal = match node {
            _ if !device.renewed => Renewal::Never,
            Some(node) => Renewal::from_node(&iommufd, node)
                .map_err(OpenError::step("prepare for the next client", address))?,
            None => return Err(OpenError::OneClient(address)),
        };
        let coherency = iommufd.take(members, address, &fd, patience)?;
        let accepted = coherency::check(address, coherency, allowed.noncoherent)?;
        devices.push(VfioDevice::new(
            members,
            device,
            fd,
            renewal,
            allowed.no_reset,
        )?);
        accepted.log();
    }
    let maps = FileMaps::new(Arc::clone(&iommufd))
        .map_err(OpenError::step("ask what the IOMMU can map", members.first))?;
    Ok(Opened {
        devices,
        descriptor: IommuDescriptor::Iommufd(iommufd.number()),
        iommu: Box::new(maps),
        authority: iommufd,
    })
}

impl Opened {
    /// What the devices need from now on.
    pub(super) fn needs(&self) -> io::Result<(VfioDescriptors, Vec<Folder>)> {
        let mut folders = Vec::new();
        let mut renewal = RenewalDescriptor::Never;
        for device in &self.devices {
            match device.renewal() {
                Renewal::Never => {}
                Renewal::Group { group, .. } => {
                    renewal = RenewalDescriptor::Group(group.group().as_raw_fd());
                }
                Renewal::Node { node, .. } => {
                    renewal = RenewalDescriptor::Node;
                    folders.push(Folder {
                        fd: node.folder().try_clone_to_owned()?,
                        number: node.folder().as_raw_fd(),
                        need: Need::OpenNode(node.name().to_owned()),
                        why: "renewal: open the device for the next client",
                    });
                }
            }
        }
        let descriptors = VfioDescriptors {
            devices: self.devices.iter().map(VfioDevice::number).collect(),
            iommu: self.descriptor,
            renewal,
        };
        Ok((descriptors, folders))
    }
}
