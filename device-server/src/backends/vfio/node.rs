//! Device nodes that a server opens itself: /dev/vfio/GROUP, /dev/vfio/vfio, /dev/iommu, and a node for each device.
//!
//! A device's own node is opened again for every client, also in the sandbox: for that the folder stays open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use protocol::PciAddress;
use rustix::fs::{Mode, OFlags};

use super::error::OpenError;
use super::members::DEVICE_NODES;
use crate::host::device::{Sysfs, vfio_name, vfio_node_number};

/// The node of one device.
#[derive(Debug)]
pub(super) struct DeviceNode {
    folder: OwnedFd,
    name: String,
}

impl DeviceNode {
    /// Finds and opens the node of a device; the descriptor is that device's also if it is bound anew meanwhile.
    pub(super) fn open_first(
        sysfs: &Sysfs,
        address: PciAddress,
    ) -> Result<(DeviceNode, OwnedFd), OpenError> {
        let name = vfio_name(sysfs, address).ok_or(OpenError::NoDeviceNode(address))?;
        let path = Path::new(DEVICE_NODES).join(&name);
        let device = open_node(address, &path)?;
        let number = rustix::fs::fstat(&device).map(|stat| {
            (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            )
        });
        if number.ok() != vfio_node_number(sysfs, address, &name) {
            return Err(OpenError::OtherNode { address, path });
        }
        let folder = File::open(DEVICE_NODES).map_err(|source| OpenError::Node {
            address,
            path: PathBuf::from(DEVICE_NODES),
            source,
        })?;
        let node = DeviceNode {
            folder: folder.into(),
            name,
        };
        Ok((node, device))
    }

    /// Opens it once more.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &self.folder,
            &self.name,
            flags,
            Mode::empty(),
        )?)
    }

    /// The folder that it is in.
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Its name there.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Opens a node for a device, for reading and writing.
pub(super) fn open_node(address: PciAddress, path: &Path) -> Result<OwnedFd, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|source| OpenError::Node {
        address,
        path: path.to_path_buf(),
        source,
    })
}
