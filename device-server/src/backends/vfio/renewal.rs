//! How a device is opened for the next client, in the sandbox.
//!
//! The system call filter allows what it takes on fixed descriptor numbers only, so a device keeps its number: `park` puts
//! something harmless there, which closes the device, and `place` puts the fresh descriptor there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use protocol::PciAddress;
use rustix::event::EventfdFlags;
use rustix::io::{DupFlags, Errno};

use super::group::Group;
use super::iommufd::Iommufd;
use super::node::DeviceNode;

/// Where a device's further descriptors come from.
#[derive(Debug)]
pub(super) enum Renewal {
    /// There is one client only.
    Never,
    /// From the group.
    Group {
        group: Arc<Group>,
        address: PciAddress,
        parked: OwnedFd,
    },
    /// From the device's own node.
    Node {
        iommufd: Arc<Iommufd>,
        node: DeviceNode,
        parked: OwnedFd,
    },
}

impl Renewal {
    /// From the group.
    pub(super) fn from_group(group: &Arc<Group>, address: PciAddress) -> io::Result<Renewal> {
        Ok(Renewal::Group {
            group: Arc::clone(group),
            address,
            parked: harmless()?,
        })
    }

    /// From the device's own node.
    pub(super) fn from_node(iommufd: &Arc<Iommufd>, node: DeviceNode) -> io::Result<Renewal> {
        Ok(Renewal::Node {
            iommufd: Arc::clone(iommufd),
            node,
            parked: harmless()?,
        })
    }

    /// Closes the device and keeps its number.
    pub(super) fn park(&self, device: &mut OwnedFd) -> io::Result<()> {
        match self {
            Renewal::Never => Ok(()),
            Renewal::Group { parked, .. } | Renewal::Node { parked, .. } => replace(device, parked),
        }
    }

    /// Opens the device anew at the number of `device`, which is parked. False: whoever had it still maps a BAR. A group's
    /// device opens all the same then, and only its content tells.
    pub(super) fn place(&self, device: &mut OwnedFd) -> io::Result<bool> {
        match self {
            Renewal::Never => Ok(true),
            Renewal::Group { group, address, .. } => {
                replace(device, &group.open_device(*address)?).map(|()| true)
            }
            Renewal::Node { iommufd, node, .. } => {
                replace(device, &node.open()?)?;
                match iommufd.bind(device.as_fd()) {
                    Ok(_) => iommufd.attach(device.as_fd()).map(|()| true),
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// Puts `with` at the number of `device`, which is closed.
pub(super) fn replace(device: &mut OwnedFd, with: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::dup3(with, device, DupFlags::CLOEXEC)?)
}

/// A descriptor that nothing can be done with: an eventfd that nobody waits for.
pub(super) fn harmless() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?)
}
