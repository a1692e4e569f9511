//! Why a device could not be opened, in one line each that says what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use protocol::PciAddress;

use super::choice::IommuBackend;
use super::members::GroupName;
use crate::host::device::DeviceError;
use crate::host::group::Blocker;
use crate::host::holders::Holder;

/// A device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not even one address.
    #[error("no host device was named")]
    NoDevices,
    /// The same address twice.
    #[error("host device {0} is named twice")]
    Twice(PciAddress),
    /// It is not there, or sysfs cannot be read.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The IOMMU is off.
    #[error(
        "{0} is in no IOMMU group: the IOMMU is off; turn on VT-d or AMD-Vi in the firmware and boot with \
         intel_iommu=on on Intel"
    )]
    NoIommu(PciAddress),
    /// VFIO's no-IOMMU mode.
    #[error(
        "{0} has no IOMMU, only VFIO's no-IOMMU mode, in which a guest could read and write all of the host's memory: \
         not served; use a machine with an IOMMU"
    )]
    NoIommuMode(PciAddress),
    /// Not bound to vfio-pci.
    #[error(
        "{address} is {}: bind it to vfio-pci first (write vfio-pci to /sys/bus/pci/devices/{address}/driver_override, \
         unbind it from its driver, and write {address} to /sys/bus/pci/drivers_probe)",
        Binding(.driver.as_deref())
    )]
    NotBound {
        /// The device.
        address: PciAddress,
        /// The driver it is bound to.
        driver: Option<String>,
    },
    /// Devices of two groups for one server.
    #[error(
        "{first} is in IOMMU group {first_group} and {second} in group {second_group}: a server serves one group; \
         start one server per group"
    )]
    TwoGroups {
        /// A device.
        first: PciAddress,
        /// Its group.
        first_group: u32,
        /// A device of another group.
        second: PciAddress,
        /// The other group.
        second_group: u32,
    },
    /// Some device of the group is still the host's.
    #[error("{group} is not viable: {}; bind it to vfio-pci or pass it too", List(.blockers))]
    NotViable {
        /// The IOMMU group.
        group: GroupName,
        /// The devices that stand in the way.
        blockers: Vec<Blocker>,
    },
    /// Somebody else has the group.
    #[error("{group} is served already{}: one server serves all devices of a group", By(.holders))]
    Busy {
        /// The IOMMU group.
        group: GroupName,
        /// The processes that hold it, as far as they can be found.
        holders: Vec<Holder>,
    },
    /// A node below /dev/vfio could not be opened.
    #[error("open {path} for {address}{}", Hint(.source))]
    Node {
        /// The device it was for.
        address: PciAddress,
        /// The node.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Inherited file descriptors that do not belong together.
    #[error(
        "the descriptors belong together: --container-fd with --group-fd, and --iommufd-fd with a --device-fd for every \
         --host"
    )]
    HalfTheFds,
    /// The operator wants one of the two ways to the IOMMU, and its descriptors are not there.
    #[error("--iommu-backend={wanted} needs other descriptors than those that were given")]
    OtherFds {
        /// What is wanted.
        wanted: IommuBackend,
    },
    /// The kernel has VFIO without nodes for devices.
    #[error(
        "VFIO has no node for {0} below /dev/vfio/devices, as Linux has since 6.6 with CONFIG_VFIO_DEVICE_CDEV: serve it \
         with --iommu-backend=type1"
    )]
    NoDeviceNode(PciAddress),
    /// The node is another device's by now.
    #[error("{path} is not the node of {address} any more: it was bound anew meanwhile; try again")]
    OtherNode {
        /// The device.
        address: PciAddress,
        /// The node.
        path: PathBuf,
    },
    /// Two things that the kernel answers alike.
    #[error(
        "{0} cannot be bound to an iommufd: another process has it open or still maps a BAR of it, or DMA on this platform \
         is not coherent with the CPU's caches"
    )]
    NotBindable(PciAddress),
    /// A node that was given is bound once, for one client.
    #[error(
        "{0} was given as a descriptor, which serves one client, and its socket takes more: give the server a connected socket \
         (--socket-fd), or let it open {0} itself"
    )]
    OneClient(PciAddress),
    /// The kernel's iommufd is too old.
    #[error(
        "iommufd of this kernel cannot map files (IOMMU_IOAS_MAP_FILE, Linux 6.13), so the guest's memory would have to be \
         mapped here: serve {0} with --iommu-backend=type1"
    )]
    NoMapFile(PciAddress),
    /// DMA may bypass the CPU's caches, and the guest cannot tell the CPU so.
    #[error(
        "DMA of {address} may bypass the CPU's caches ({iommu}), and this CPU ignores how the guest maps such memory, so the \
         guest could read stale data, and its device other data than it wrote: not served; allow it with --allow-noncoherent \
         (allow-noncoherent=on) if the guest's driver needs no such DMA"
    )]
    NotCoherent {
        /// The device.
        address: PciAddress,
        /// What the IOMMU does not do.
        iommu: &'static str,
    },
    /// The kernel's VFIO is not the one this was written for.
    #[error(
        "the container is no VFIO container with type1v2 IOMMU support: load the module vfio_iommu_type1"
    )]
    NoType1,
    /// Devices could forge interrupts.
    #[error(
        "the IOMMU of {0} cannot remap interrupts, so that the device could send any interrupt to the host: not served; \
         turn on interrupt remapping (x2APIC, intremap) in firmware and kernel"
    )]
    NoInterruptRemapping(PciAddress),
    /// The operator turned the kernel's check off.
    #[error(
        "{module} is loaded with allow_unsafe_interrupts=Y, which lets {address} send any interrupt to the host: not \
         served; write N to /sys/module/{module}/parameters/allow_unsafe_interrupts"
    )]
    UnsafeInterrupts {
        /// The device.
        address: PciAddress,
        /// The module with the parameter.
        module: &'static str,
    },
    /// The device cannot be reset.
    #[error(
        "{address} cannot be reset ({}): what one client leaves in it would reach the next; pass another device, or \
         allow it with --allow-no-reset (allow-no-reset=on)",
        Methods(.address, .methods.as_deref())
    )]
    NoReset {
        /// The device.
        address: PciAddress,
        /// The content of sysfs reset_method.
        methods: Option<String>,
    },
    /// The kernel says it is no PCI device.
    #[error("{0} is no PCI device to VFIO")]
    NotPci(PciAddress),
    /// A step of opening failed in the kernel.
    #[error("{step} of {address}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// On which device.
        address: PciAddress,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: `step` on `address` failed.
    pub(super) fn step(step: &'static str, address: PciAddress) -> impl Fn(io::Error) -> OpenError {
        move |source| OpenError::Step {
            step,
            address,
            source,
        }
    }
}

struct Binding<'a>(Option<&'a str>);

impl fmt::Display for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(driver) => write!(f, "in use by the host's driver {driver}"),
            None => write!(f, "bound to no driver"),
        }
    }
}

struct List<'a>(&'a [Blocker]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "one of its devices is bound to a driver of the host");
        }
        for (index, blocker) in self.0.iter().enumerate() {
            write!(f, "{}{blocker}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct By<'a>(&'a [Holder]);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, " (by a process that /proc does not show)");
        }
        for (index, holder) in self.0.iter().enumerate() {
            let before = if index == 0 { " by" } else { "," };
            write!(f, "{before} pid {} ({})", holder.pid, holder.name)?;
        }
        Ok(())
    }
}

struct Hint<'a>(&'a io::Error);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.0.kind();
        if kind == io::ErrorKind::NotFound {
            return write!(f, " (load the modules: modprobe vfio-pci iommufd)");
        }
        if kind == io::ErrorKind::PermissionDenied {
            return write!(f, " (run as root, or give this user the node)");
        }
        Ok(())
    }
}

struct Methods<'a>(&'a PciAddress, Option<&'a str>);

impl fmt::Display for Methods<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = format!("/sys/bus/pci/devices/{}/reset_method", self.0);
        match self.1 {
            None => write!(f, "there is no {path}"),
            Some("") => write!(f, "{path} is empty"),
            Some(methods) => write!(f, "{path} says \"{methods}\", and it did not work"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_viable_names_the_blocking_device() {
        let blockers = vec![Blocker {
            device: "0000:1a:00.1".into(),
            driver: "hinic".into(),
        }];
        assert_eq!(
            OpenError::NotViable {
                group: GroupName::Number(12),
                blockers
            }
            .to_string(),
            "group 12 is not viable: 0000:1a:00.1 is bound to hinic; bind it to vfio-pci or pass it too"
        );
    }

    #[test]
    fn busy_names_the_process() {
        let holders = vec![Holder {
            pid: 77,
            name: "bulkhead-device".into(),
        }];
        let text = OpenError::Busy {
            group: GroupName::Number(12),
            holders,
        }
        .to_string();
        assert!(
            text.starts_with("group 12 is served already by pid 77 (bulkhead-device)"),
            "{text}"
        );
        let text = OpenError::Busy {
            group: GroupName::Number(12),
            holders: Vec::new(),
        }
        .to_string();
        assert!(
            text.starts_with("group 12 is served already (by a process that /proc does not show)"),
            "{text}"
        );
    }

    #[test]
    fn every_error_is_one_line() {
        let address: PciAddress = "0000:1a:00.3".parse().unwrap();
        let errors = [
            OpenError::NoIommu(address),
            OpenError::NoIommuMode(address),
            OpenError::NotBound {
                address,
                driver: None,
            },
            OpenError::NoReset {
                address,
                methods: Some(String::new()),
            },
            OpenError::NoInterruptRemapping(address),
            OpenError::UnsafeInterrupts {
                address,
                module: "iommufd",
            },
            OpenError::NoDeviceNode(address),
            OpenError::NoMapFile(address),
            OpenError::NotCoherent {
                address,
                iommu: "its IOMMU has no snoop control",
            },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(
                !text.contains('\n') && !text.contains("  ") && text.contains("0000:1a:00.3"),
                "{text}"
            );
        }
    }
}
