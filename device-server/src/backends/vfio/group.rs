//! The IOMMU group and its type1v2 container: one of two kinds of authority over the devices that a server serves.
//!
//! Linux `Documentation/driver-api/vfio.rst`. A group has one opener in the whole system, so one server serves all
//! its devices. The nodes are opened here, or come as file descriptors from whoever started the server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use protocol::PciAddress;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DMA_CC_IOMMU, VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_TYPE1v2_IOMMU,
};

use super::error::OpenError;
use super::ioctls;
use super::members::{Members, group_node};
use super::node::open_node;

const CONTAINER_NODE: &str = "/dev/vfio/vfio";

/// The nodes of a group.
#[derive(Debug)]
pub(super) struct GroupFds {
    /// /dev/vfio/vfio.
    pub(super) container: OwnedFd,
    /// /dev/vfio/GROUP.
    pub(super) group: OwnedFd,
}

/// An open group with its container.
#[derive(Debug)]
pub(super) struct Group {
    container: OwnedFd,
    group: OwnedFd,
}

impl GroupFds {
    /// Opens the nodes of the group with this number.
    pub(super) fn open(members: &Members, number: u32) -> Result<GroupFds, OpenError> {
        let group = match open_node(members.first, &group_node(number)) {
            Err(OpenError::Node { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::BUSY) =>
            {
                return Err(members.busy());
            }
            result => result?,
        };
        let container = open_node(members.first, Path::new(CONTAINER_NODE))?;
        Ok(GroupFds { container, group })
    }
}

impl Group {
    /// Gives the group a type1v2 container of its own.
    pub(super) fn new(members: &Members, fds: GroupFds) -> Result<Group, OpenError> {
        let GroupFds { container, group } = fds;
        let first = members.first;
        check_container(container.as_fd())?;
        let flags = ioctls::group_flags(group.as_fd())
            .map_err(OpenError::step("get the status of the group", first))?;
        if flags & VFIO_GROUP_FLAGS_CONTAINER_SET != 0 {
            return Err(members.busy());
        }
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(members.not_viable());
        }
        ioctls::set_container(group.as_fd(), container.as_fd()).map_err(OpenError::step(
            "put the IOMMU group into a container",
            first,
        ))?;
        ioctls::set_iommu(container.as_fd(), VFIO_TYPE1v2_IOMMU).map_err(|source| {
            if Errno::from_io_error(&source) == Some(Errno::PERM) {
                OpenError::NoInterruptRemapping(first)
            } else {
                OpenError::Step {
                    step: "give the IOMMU group type1v2 mappings",
                    address: first,
                    source,
                }
            }
        })?;
        Ok(Group { container, group })
    }

    /// Opens a device of the group. The kernel resets it, if it can, and gives it a fresh virtual config space, but
    /// only when nobody else has it open or mapped.
    pub(super) fn open_device(&self, address: PciAddress) -> io::Result<OwnedFd> {
        ioctls::device_fd(self.group.as_fd(), &address.to_string())
    }

    /// Whether the IOMMU makes all DMA of the group coherent with the CPU's caches, whatever the device asks for.
    pub(super) fn enforces_coherency(&self) -> io::Result<bool> {
        ioctls::has_extension(self.container.as_fd(), VFIO_DMA_CC_IOMMU)
    }

    /// The container, for DMA mappings.
    pub(super) fn container(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }

    /// The group.
    pub(super) fn group(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

fn check_container(container: BorrowedFd<'_>) -> Result<(), OpenError> {
    let version = ioctls::api_version(container).ok();
    let type1v2 = ioctls::has_extension(container, VFIO_TYPE1v2_IOMMU).unwrap_or(false);
    if version != Some(VFIO_API_VERSION) || !type1v2 {
        return Err(OpenError::NoType1);
    }
    Ok(())
}
