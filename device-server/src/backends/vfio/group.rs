//! The IOMMU group and its type1v2 container: the authority over the devices that a server serves.
//!
//! Linux `Documentation/driver-api/vfio.rst`. A group has one opener in the whole system, so one server serves all
//! its devices. The nodes are opened here, or come as file descriptors from whoever started the server.
//! Refused before anything is opened: a device that is the host's, no IOMMU, no-IOMMU mode, unsafe interrupts.
//! No iommufd.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use protocol::PciAddress;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU,
};

use super::error::OpenError;
use super::ioctls;
use crate::host::device::{HostDevice, Sysfs};
use crate::host::{group, holders};

const CONTAINER_NODE: &str = "/dev/vfio/vfio";

/// The nodes of a group, opened by somebody else.
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

impl Group {
    /// Opens the group that all of `hosts` are in and gives it a type1v2 container of its own.
    pub(super) fn open(
        sysfs: &Sysfs,
        hosts: &[PciAddress],
        fds: Option<GroupFds>,
    ) -> Result<Group, OpenError> {
        let (first, number) = common_group(sysfs, hosts)?;
        let unsafe_interrupts =
            sysfs.module_parameter("vfio_iommu_type1", "allow_unsafe_interrupts");
        if unsafe_interrupts.as_deref() == Some("Y") {
            return Err(OpenError::UnsafeInterrupts(first));
        }
        let GroupFds { container, group } = match fds {
            Some(fds) => fds,
            None => open_nodes(first, number)?,
        };
        check_container(container.as_fd())?;
        let flags = ioctls::group_flags(group.as_fd())
            .map_err(OpenError::step("get the status of the group", first))?;
        if flags & VFIO_GROUP_FLAGS_CONTAINER_SET != 0 {
            return Err(OpenError::Busy {
                group: number,
                holders: holders::holders_of(&node_of(number)),
            });
        }
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(OpenError::NotViable {
                group: number,
                blockers: group::blockers(sysfs, number),
            });
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

    /// The container, for DMA mappings.
    pub(super) fn container(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }
}

/// The one group that all devices are in, with the first device, when each of them may be served.
fn common_group(sysfs: &Sysfs, hosts: &[PciAddress]) -> Result<(PciAddress, u32), OpenError> {
    let mut found: Option<(PciAddress, u32)> = None;
    for (index, address) in hosts.iter().copied().enumerate() {
        if hosts.iter().take(index).any(|earlier| *earlier == address) {
            return Err(OpenError::Twice(address));
        }
        let device = HostDevice::read(sysfs, address)?;
        let second_group = device.group.ok_or(OpenError::NoIommu(address))?;
        if group::is_noiommu(sysfs, second_group) {
            return Err(OpenError::NoIommuMode(address));
        }
        if !device.bound_to_vfio {
            return Err(OpenError::NotBound {
                address,
                driver: device.driver,
            });
        }
        let (first, first_group) = *found.get_or_insert((address, second_group));
        if first_group != second_group {
            return Err(OpenError::TwoGroups {
                first,
                first_group,
                second: address,
                second_group,
            });
        }
    }
    found.ok_or(OpenError::NoDevices)
}

fn node_of(group: u32) -> PathBuf {
    Path::new("/dev/vfio").join(group.to_string())
}

fn open_nodes(address: PciAddress, number: u32) -> Result<GroupFds, OpenError> {
    let path = node_of(number);
    let group = match open_node(&path) {
        Err(source) if Errno::from_io_error(&source) == Some(Errno::BUSY) => {
            let mut holders = holders::holders_of(&path);
            if holders.is_empty() {
                holders = holders::holders_of_bar_mappings();
            }
            return Err(OpenError::Busy {
                group: number,
                holders,
            });
        }
        Err(source) => {
            return Err(OpenError::Node {
                address,
                path,
                source,
            });
        }
        Ok(fd) => fd,
    };
    let path = PathBuf::from(CONTAINER_NODE);
    let container = open_node(&path).map_err(|source| OpenError::Node {
        address,
        path,
        source,
    })?;
    Ok(GroupFds { container, group })
}

fn open_node(path: &Path) -> io::Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(OwnedFd::from)
}

fn check_container(container: BorrowedFd<'_>) -> Result<(), OpenError> {
    let version = ioctls::api_version(container).ok();
    let type1v2 = ioctls::has_extension(container, VFIO_TYPE1v2_IOMMU).unwrap_or(false);
    if version != Some(VFIO_API_VERSION) || !type1v2 {
        return Err(OpenError::NoType1);
    }
    Ok(())
}
