//! The server of PCI devices through VFIO.
//!
//! seccomp sees numbers, not meanings: an ioctl is allowed by its number and on its descriptor's number only, and so is reading
//! and writing a device. 0x3b71 is MAP_DMA on a container and PCI_HOT_RESET on a device, so the numbers matter.
//! Two kinds. With a type1 container guest memory is mapped while MAP_DMA runs. With iommufd the kernel maps it from its file:
//! then no descriptor can be mapped at all, and IOAS_MAP, which would let the device reach this process's own memory, is not
//! in the list.

use std::os::fd::RawFd;

use crate::mechanisms::seccomp::{Arg, Rule};

use super::device_base::{self, FileMaps, number};
use super::{Calls, Folder, Limit, Power, Resource, Role};

const VFIO_GROUP_GET_DEVICE_FD: u64 = 0x3b6a;
const VFIO_DEVICE_GET_INFO: u64 = 0x3b6b;
const VFIO_DEVICE_GET_REGION_INFO: u64 = 0x3b6c;
const VFIO_DEVICE_GET_IRQ_INFO: u64 = 0x3b6d;
const VFIO_DEVICE_SET_IRQS: u64 = 0x3b6e;
const VFIO_DEVICE_RESET: u64 = 0x3b6f;
const VFIO_IOMMU_MAP_DMA: u64 = 0x3b71;
const VFIO_IOMMU_UNMAP_DMA: u64 = 0x3b72;
const VFIO_DEVICE_BIND_IOMMUFD: u64 = 0x3b76;
const VFIO_DEVICE_ATTACH_IOMMUFD_PT: u64 = 0x3b77;
const IOMMU_IOAS_UNMAP: u64 = 0x3b86;
const IOMMU_IOAS_MAP_FILE: u64 = 0x3b8f;

/// Descriptors that a device may need: MSI-X has 2048 vectors, each with an eventfd, and a new set is taken before
/// the old one is let go.
const DESCRIPTORS_PER_DEVICE: u64 = 4200;
/// What the process has open besides.
const DESCRIPTORS: u64 = 64;

/// What the server holds when it enters its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioDescriptors {
    /// The devices, or what keeps their numbers until they are open. The numbers stay.
    pub devices: Vec<RawFd>,
    /// What maps memory for their DMA.
    pub iommu: IommuDescriptor,
    /// Where a device is opened from, within the sandbox.
    pub renewal: Renewal,
}

/// What maps memory for DMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IommuDescriptor {
    /// A copy of /dev/vfio/vfio.
    Type1(RawFd),
    /// A copy of /dev/iommu.
    Iommufd(RawFd),
}

/// Where a device is opened from, within the sandbox: anew for each further client, or for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It is open already, and there is one client only.
    Never,
    /// /dev/vfio/GROUP, for one client, which is served before the device is open.
    Once(RawFd),
    /// /dev/vfio/GROUP.
    Group(RawFd),
    /// Its own node; the folder is among the role's folders.
    Node,
}

/// What a server of so many devices gives up beside system calls. Which devices they are does not matter, so it can be given up
/// before they are known. `locked_bytes`: guest memory that will be pinned, if that is known. `log_to_file`: standard error is
/// a regular file.
pub fn power(
    devices: usize,
    locked_bytes: Option<u64>,
    log_to_file: bool,
    folders: Vec<Folder>,
) -> Power {
    let devices = u64::try_from(devices).unwrap_or(u64::MAX);
    let mut limits = device_base::limits(
        DESCRIPTORS.saturating_add(devices.saturating_mul(DESCRIPTORS_PER_DEVICE)),
        log_to_file,
    );
    limits.push(Limit {
        resource: Resource::Memlock,
        value: locked_bytes,
        why: "DMA maps pin guest memory, and nothing else is locked",
    });
    Power {
        role: "vfio",
        limits,
        folders,
    }
}

/// The role: `power`, and system calls.
pub fn role(
    descriptors: &VfioDescriptors,
    locked_bytes: Option<u64>,
    log_to_file: bool,
    folders: Vec<Folder>,
) -> Role {
    let calls = calls(descriptors, &folders);
    let power = power(
        descriptors.devices.len(),
        locked_bytes,
        log_to_file,
        folders,
    );
    Role { power, calls }
}

/// What the server may call.
pub fn calls(descriptors: &VfioDescriptors, folders: &[Folder]) -> Calls {
    let maps = match descriptors.iommu {
        IommuDescriptor::Type1(_) => FileMaps::Shared("dma: guest memory while MAP_DMA runs"),
        IommuDescriptor::Iommufd(_) => FileMaps::Never,
    };
    let mut rules = device_base::rules(maps, folders);
    rules.extend(iommu_rules(descriptors.iommu));
    rules.extend(descriptors.devices.iter().flat_map(|fd| device_rules(*fd)));
    rules.extend(renewal_rules(descriptors));
    let pinned: Vec<RawFd> = pinned(descriptors);
    let refused = device_base::refused(&pinned, folders);
    rules.extend(refused.iter().cloned());
    Calls { rules, refused }
}

fn ioctl(fd: RawFd, command: u64, why: &'static str) -> Rule {
    Rule::syscall(libc::SYS_ioctl, why)
        .arg(0, Arg::Equals(number(fd)))
        .arg(1, Arg::Equals(command))
}

fn iommu_rules(iommu: IommuDescriptor) -> [Rule; 2] {
    let (into, out) = ("dma: guest memory into the IOMMU", "dma: and out of it");
    match iommu {
        IommuDescriptor::Type1(fd) => [
            ioctl(fd, VFIO_IOMMU_MAP_DMA, into),
            ioctl(fd, VFIO_IOMMU_UNMAP_DMA, out),
        ],
        IommuDescriptor::Iommufd(fd) => [
            ioctl(fd, IOMMU_IOAS_MAP_FILE, into),
            ioctl(fd, IOMMU_IOAS_UNMAP, out),
        ],
    }
}

fn device_rules(fd: RawFd) -> [Rule; 4] {
    let on = |call, why| Rule::syscall(call, why).arg(0, Arg::Equals(number(fd)));
    [
        ioctl(
            fd,
            VFIO_DEVICE_SET_IRQS,
            "irqs: connect eventfds to vectors",
        ),
        ioctl(fd, VFIO_DEVICE_RESET, "reset: when the guest asks"),
        on(
            libc::SYS_pread64,
            "regions: trapped reads of BARs, config space and ROM",
        ),
        on(
            libc::SYS_pwrite64,
            "regions: trapped writes of BARs and config space",
        ),
    ]
}

fn renewal_rules(descriptors: &VfioDescriptors) -> Vec<Rule> {
    let mut rules = Vec::new();
    if descriptors.renewal == Renewal::Never {
        return rules;
    }
    if let Renewal::Group(group) | Renewal::Once(group) = descriptors.renewal {
        rules.push(ioctl(
            group,
            VFIO_GROUP_GET_DEVICE_FD,
            "renewal, opening: open the device",
        ));
    }
    for fd in descriptors.devices.iter().copied() {
        rules.push(
            Rule::syscall(
                libc::SYS_dup3,
                "renewal, opening: the device keeps its number",
            )
            .arg(1, Arg::Equals(number(fd)))
            .arg(2, Arg::Equals(O_CLOEXEC)),
        );
        rules.push(ioctl(
            fd,
            VFIO_DEVICE_GET_INFO,
            "renewal, opening: was it reset",
        ));
        if let Renewal::Once(_) = descriptors.renewal {
            rules.push(ioctl(
                fd,
                VFIO_DEVICE_GET_REGION_INFO,
                "opening: its regions",
            ));
            rules.push(ioctl(
                fd,
                VFIO_DEVICE_GET_IRQ_INFO,
                "opening: its interrupts",
            ));
        }
        if descriptors.renewal == Renewal::Node {
            rules.push(ioctl(
                fd,
                VFIO_DEVICE_BIND_IOMMUFD,
                "renewal: open the device",
            ));
            rules.push(ioctl(
                fd,
                VFIO_DEVICE_ATTACH_IOMMUFD_PT,
                "renewal: its DMA through our address space",
            ));
        }
    }
    rules
}

/// Every number that a rule names.
fn pinned(descriptors: &VfioDescriptors) -> Vec<RawFd> {
    let iommu = match descriptors.iommu {
        IommuDescriptor::Type1(fd) | IommuDescriptor::Iommufd(fd) => fd,
    };
    let group = match descriptors.renewal {
        Renewal::Group(fd) | Renewal::Once(fd) => Some(fd),
        Renewal::Never | Renewal::Node => None,
    };
    let devices = descriptors.devices.iter().copied();
    devices.chain([iommu]).chain(group).collect()
}

const O_CLOEXEC: u64 = libc::O_CLOEXEC.unsigned_abs() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: RawFd = 7;

    /// On which descriptors this ioctl is allowed.
    fn allowed_on(command: u64, renewal: Renewal) -> Vec<Arg> {
        let descriptors = VfioDescriptors {
            devices: vec![9],
            iommu: IommuDescriptor::Type1(8),
            renewal,
        };
        let rules = calls(&descriptors, &[]).rules.into_iter();
        let of_it = rules.filter(|rule| {
            rule.syscall == libc::SYS_ioctl && rule.arguments.contains(&(1, Arg::Equals(command)))
        });
        of_it
            .flat_map(|rule| rule.arguments)
            .filter(|(argument, _)| *argument == 0)
            .map(|(_, on)| on)
            .collect()
    }

    #[test]
    fn device_is_taken_from_its_own_group_by_a_server_that_waited_for_it_only() {
        let get_device = |renewal| allowed_on(VFIO_GROUP_GET_DEVICE_FD, renewal);
        assert_eq!(get_device(Renewal::Never), []);
        assert_eq!(
            get_device(Renewal::Once(GROUP)),
            [Arg::Equals(number(GROUP))]
        );
    }

    #[test]
    fn device_is_asked_what_it_is_within_the_sandbox_by_a_server_that_waited_for_it_only() {
        for question in [VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_GET_IRQ_INFO] {
            assert_eq!(allowed_on(question, Renewal::Never), []);
            assert_eq!(allowed_on(question, Renewal::Group(GROUP)), []);
            let once = allowed_on(question, Renewal::Once(GROUP));
            assert_eq!(once, [Arg::Equals(9)]);
        }
    }
}
