//! Opens the VFIO nodes of a group's devices for its device server: the group's, and /dev/iommu with each device's own.
//!
//! Which of the two ways to the IOMMU is taken the server decides, which can ask the kernel: it is given both where both are
//! there, unless the operator wants one. Nothing here is an ioctl.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::config::IommuBackend;

use super::hosts::{HostDevice, HostError, HostGroup, VFIO_NODES};

/// Where the iommufd is.
const IOMMUFD_NODE: &str = "/dev/iommu";

/// The nodes of a group.
#[derive(Debug)]
pub(super) struct Nodes {
    /// For type1: the container, and the group.
    pub(super) group: Option<(OwnedFd, OwnedFd)>,
    /// For iommufd: /dev/iommu, and one node for each device of the group, in its order.
    pub(super) iommufd: Option<(OwnedFd, Vec<OwnedFd>)>,
}

/// Opens what `backend` takes. `sysfs` is the mount point.
pub(super) fn open(
    sysfs: &Path,
    group: &HostGroup,
    backend: IommuBackend,
) -> Result<Nodes, HostError> {
    match backend {
        IommuBackend::Type1 => Ok(Nodes {
            group: Some(group_nodes(group)?),
            iommufd: None,
        }),
        IommuBackend::Iommufd => Ok(Nodes {
            group: None,
            iommufd: Some(device_nodes(sysfs, group)?),
        }),
        IommuBackend::Auto => {
            // What cannot be opened is no way; if there is none, the group's error is the one to tell.
            let iommufd = device_nodes(sysfs, group).ok();
            let group = match (group_nodes(group), &iommufd) {
                (Ok(nodes), _) => Some(nodes),
                (Err(HostError::Node { .. }), Some(_)) => None,
                (Err(error), _) => return Err(error),
            };
            Ok(Nodes { group, iommufd })
        }
    }
}

fn group_nodes(group: &HostGroup) -> Result<(OwnedFd, OwnedFd), HostError> {
    let group_node = open_node(group, &Path::new(VFIO_NODES).join(group.number.to_string()))?;
    let container = open_node(group, &Path::new(VFIO_NODES).join("vfio"))?;
    Ok((container, group_node))
}

fn device_nodes(sysfs: &Path, group: &HostGroup) -> Result<(OwnedFd, Vec<OwnedFd>), HostError> {
    let iommufd = open_node(group, Path::new(IOMMUFD_NODE))?;
    let devices = group.devices.iter();
    let devices = devices.map(|device| device_node(sysfs, group, device));
    Ok((iommufd, devices.collect::<Result<_, _>>()?))
}

/// A device's node, which it still has when it is open: it may be bound anew meanwhile.
fn device_node(sysfs: &Path, group: &HostGroup, device: &HostDevice) -> Result<OwnedFd, HostError> {
    let missing = || HostError::NoDeviceNode {
        id: device.id.clone(),
        host: device.host,
    };
    let folder = sysfs.join(format!("bus/pci/devices/{}/vfio-dev", device.host));
    let entry = std::fs::read_dir(&folder)
        .ok()
        .and_then(|mut entries| entries.next()?.ok());
    let name = entry.ok_or_else(missing)?.file_name();
    let path = Path::new(VFIO_NODES).join("devices").join(&name);
    let node = open_node(group, &path)?;
    let number = std::fs::read_to_string(folder.join(&name).join("dev")).unwrap_or_default();
    let stat = rustix::fs::fstat(&node).map_err(|errno| HostError::Sysfs {
        path,
        source: errno.into(),
    })?;
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if number.trim() == format!("{major}:{minor}") {
        Ok(node)
    } else {
        Err(missing())
    }
}

fn open_node(group: &HostGroup, path: &Path) -> Result<OwnedFd, HostError> {
    let source = match File::options().read(true).write(true).open(path) {
        Ok(file) => return Ok(file.into()),
        Err(error) => error,
    };
    let (path, hosts) = (PathBuf::from(path), group.hosts());
    if source.kind() == io::ErrorKind::ResourceBusy {
        return Err(HostError::Busy {
            path,
            group: group.number,
            hosts,
        });
    }
    let advice = if source.kind() == io::ErrorKind::NotFound {
        "load the VFIO modules: `modprobe vfio-pci vfio_iommu_type1`, or `modprobe vfio-pci iommufd` for -iommu-backend iommufd"
    } else {
        "run as root, or make this user the owner of the node"
    };
    Err(HostError::Node {
        path,
        hosts,
        advice,
        source,
    })
}
