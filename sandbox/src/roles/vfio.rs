//! The server of PCI devices through a VFIO group and a type1 container.
//!
//! seccomp sees numbers, not meanings: an ioctl is allowed by its number and, for the container and the group, on their
//! descriptor numbers only. 0x3b71 is MAP_DMA on a container and PCI_HOT_RESET on a device, so the numbers matter.

use std::os::fd::RawFd;

use crate::mechanisms::seccomp::{Arg, Rule};

use super::device_base;
use super::{Calls, Folder, Limit, Power, Resource, Role};

const VFIO_GROUP_GET_DEVICE_FD: u64 = 0x3b6a;
const VFIO_DEVICE_GET_INFO: u64 = 0x3b6b;
const VFIO_DEVICE_SET_IRQS: u64 = 0x3b6e;
const VFIO_DEVICE_RESET: u64 = 0x3b6f;
const VFIO_IOMMU_MAP_DMA: u64 = 0x3b71;
const VFIO_IOMMU_UNMAP_DMA: u64 = 0x3b72;

/// Descriptors that a device may need: MSI-X has 2048 vectors, each with an eventfd, and a new set is taken before
/// the old one is let go.
const DESCRIPTORS_PER_DEVICE: u64 = 4200;
/// What the process has open besides.
const DESCRIPTORS: u64 = 64;

/// What the server holds when it enters its sandbox.
#[derive(Debug)]
pub struct VfioDescriptors {
    /// Copies of /dev/vfio/vfio.
    pub containers: Vec<RawFd>,
    /// Copies of /dev/vfio/GROUP.
    pub groups: Vec<RawFd>,
    /// Whether standard error is a regular file.
    pub log_to_file: bool,
}

/// The role. `locked_bytes`: guest memory that will be pinned, if that is known. `devices`: how many it serves.
pub fn role(
    descriptors: &VfioDescriptors,
    devices: u64,
    locked_bytes: Option<u64>,
    folders: Vec<Folder>,
) -> Role {
    let mut limits = device_base::limits(
        DESCRIPTORS + devices.saturating_mul(DESCRIPTORS_PER_DEVICE),
        descriptors.log_to_file,
    );
    limits.push(Limit {
        resource: Resource::Memlock,
        value: locked_bytes,
        why: "DMA maps pin guest memory, and nothing else is locked",
    });
    let mut rules = device_base::rules();
    rules.extend(device_rules());
    rules.extend(pinned_rules(descriptors));
    rules.extend(
        folders
            .iter()
            .flat_map(|folder| folder_rules(folder.number)),
    );
    Role {
        power: Power {
            role: "vfio",
            limits,
            folders,
        },
        calls: Calls {
            rules,
            refused: refused_rules(descriptors),
        },
    }
}

/// What removing a socket's file takes, in this folder only.
fn folder_rules(folder: RawFd) -> [Rule; 2] {
    let pinned =
        |call, why| Rule::syscall(call, why).arg(0, Arg::Equals(folder.unsigned_abs().into()));
    [
        pinned(
            libc::SYS_newfstatat,
            "listener: is the socket's file still ours",
        ),
        pinned(libc::SYS_unlinkat, "listener: remove the socket's file").arg(2, Arg::Equals(0)),
    ]
}

fn device_rules() -> Vec<Rule> {
    let ioctl = |number, why| Rule::syscall(libc::SYS_ioctl, why).arg(1, Arg::Equals(number));
    vec![
        ioctl(VFIO_DEVICE_SET_IRQS, "irqs: connect eventfds to vectors"),
        ioctl(
            VFIO_DEVICE_RESET,
            "reset: between clients and when the guest asks",
        ),
        ioctl(VFIO_DEVICE_GET_INFO, "device: for the next client"),
        Rule::syscall(
            libc::SYS_pread64,
            "regions: trapped reads of BARs, config space and ROM",
        ),
        Rule::syscall(
            libc::SYS_pwrite64,
            "regions: trapped writes of BARs and config space",
        ),
    ]
}

fn pinned_rules(descriptors: &VfioDescriptors) -> Vec<Rule> {
    let on = |fd: RawFd, number, why| {
        let fd = Arg::Equals(fd.unsigned_abs().into());
        Rule::syscall(libc::SYS_ioctl, why)
            .arg(0, fd)
            .arg(1, Arg::Equals(number))
    };
    let mut rules = Vec::new();
    for container in &descriptors.containers {
        rules.push(on(
            *container,
            VFIO_IOMMU_MAP_DMA,
            "dma: guest memory into the IOMMU",
        ));
        rules.push(on(*container, VFIO_IOMMU_UNMAP_DMA, "dma: and out of it"));
    }
    for group in &descriptors.groups {
        rules.push(on(
            *group,
            VFIO_GROUP_GET_DEVICE_FD,
            "device: reopened for the next client",
        ));
    }
    rules
}

/// Closing one of these would free its number for another descriptor. Refused with an error, not with death: the
/// process does close them when it ends, after its last client, and exit does it then.
fn refused_rules(descriptors: &VfioDescriptors) -> Vec<Rule> {
    let pinned = descriptors.containers.iter().chain(&descriptors.groups);
    let refused = pinned.map(|fd| {
        Rule::syscall(
            libc::SYS_close,
            "the numbers of container and group stay theirs",
        )
        .arg(0, Arg::Equals(fd.unsigned_abs().into()))
    });
    refused.chain(device_base::refused()).collect()
}
