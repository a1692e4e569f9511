//! Why a device could not be given to VFIO, given back, or split into virtual functions; and the exit status of each.

use std::io;
use std::path::PathBuf;

use protocol::PciAddress;

use super::device::DeviceError;
use super::usage::{Use, joined};

/// Why nothing was changed. The text and its sources make one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    /// No such device, or sysfs cannot be read.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device is in no IOMMU group.
    #[error(
        "{0} is in no IOMMU group: the IOMMU is off or missing; `bulkhead-device-server host check` says how to turn it on"
    )]
    NoIommu(PciAddress),
    /// A PCI bridge.
    #[error(
        "{0} is a PCI bridge, which stays with the host; bind the devices behind it, `bulkhead-device-server host list` shows them"
    )]
    Bridge(PciAddress),
    /// The kernel has no vfio-pci.
    #[error(
        "the kernel has no vfio-pci driver, and `modprobe vfio-pci` does not bring it; install a kernel with CONFIG_VFIO_PCI"
    )]
    NoVfioPci,
    /// Not allowed to change sysfs.
    #[error("not allowed to write {0}; run it as root")]
    NotPermitted(PathBuf),
    /// sysfs is mounted read-only.
    #[error(
        "{0} is on a read-only sysfs, as in a container; run it on the host, or remount /sys for writing"
    )]
    ReadOnly(PathBuf),
    /// The host uses the device.
    #[error(
        "{address} is in use: {}; {} first, or take it anyway with --force",
        joined(uses),
        remedies(uses)
    )]
    InUse {
        /// The device.
        address: PciAddress,
        /// For what.
        uses: Vec<Use>,
    },
    /// The host uses another device of the group.
    #[error(
        "{address} shares IOMMU group {group} with {member}, which is in use: {}; {} first, pass another device, or take it anyway with --force",
        joined(uses),
        remedies(uses)
    )]
    GroupInUse {
        /// The device that was asked for.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// The device that is in use.
        member: PciAddress,
        /// For what.
        uses: Vec<Use>,
    },
    /// Somebody else binds or unbinds it now.
    #[error(
        "{address} is being bound or unbound by {by}; wait until that has ended, then look with `bulkhead-device-server host list`"
    )]
    Busy {
        /// The device.
        address: PciAddress,
        /// "process 123".
        by: String,
    },
    /// The driver was too slow.
    #[error(
        "{driver} did not {what} within {seconds} s, and {address} is put back as it was as soon as that ends; end what uses the device, see dmesg, or wait longer with --wait"
    )]
    DriverSlow {
        /// The device.
        address: PciAddress,
        /// Its driver.
        driver: String,
        /// "let it go", "take it", "make its virtual functions".
        what: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// A driver did not take the device.
    #[error("{driver} did not take {address}: {} did; dmesg says why", actual.as_deref().unwrap_or("no driver"))]
    NotTaken {
        /// The device.
        address: PciAddress,
        /// The driver that was to take it.
        driver: String,
        /// The one that took it instead.
        actual: Option<String>,
    },
    /// The operator pressed Ctrl-C.
    #[error(
        "interrupted while waiting for {driver}; {address} is put back as it was as soon as that ends"
    )]
    Interrupted {
        /// The device.
        address: PciAddress,
        /// Its driver.
        driver: String,
    },
    /// After a failure the device could not be put back.
    #[error("{first}; and then it could not be put back: {second}")]
    NotRestored {
        /// The failure.
        first: String,
        /// The second one.
        second: String,
    },
    /// sysfs refused a write.
    #[error("write {path} for {address}")]
    Sysfs {
        /// The device.
        address: PciAddress,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Our own notes cannot be kept.
    #[error(
        "keep a note of the driver of {address} in {path}; the disk may be full or not writable"
    )]
    Note {
        /// The device.
        address: PciAddress,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The helper process that waits for a driver cannot be started.
    #[error("start a helper process for {address}")]
    Helper {
        /// The device.
        address: PciAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device has no virtual functions.
    #[error(
        "{0} has no virtual functions: it is no SR-IOV device, is a virtual function itself, or SR-IOV is off in the firmware setup"
    )]
    NotSriov(PciAddress),
    /// More virtual functions than the device has.
    #[error("{address} can have at most {total} virtual functions, and {asked} were asked for")]
    TooManyFunctions {
        /// The device.
        address: PciAddress,
        /// How many were asked for.
        asked: u32,
        /// How many there are.
        total: u32,
    },
}

impl HostError {
    /// `first` happened, and undoing what was done until then failed as well.
    pub(super) fn not_restored(first: &HostError, second: &HostError) -> HostError {
        HostError::NotRestored {
            first: first.line(),
            second: second.line(),
        }
    }

    /// Whether a helper process still waits for the driver, and puts the device back then.
    pub(super) fn leaves_a_helper(&self) -> bool {
        matches!(
            self,
            HostError::DriverSlow { .. } | HostError::Interrupted { .. }
        )
    }

    /// The error with its causes, in one line.
    pub(super) fn line(&self) -> String {
        let first: &dyn std::error::Error = self;
        let causes = std::iter::successors(Some(first), |error| error.source());
        let texts: Vec<String> = causes.map(ToString::to_string).collect();
        texts.join(": ").replace('\n', " ")
    }

    /// The exit status of most failures.
    pub(super) const FAILED: u8 = 1;

    /// The exit status of the program. Those of wrong usage are in `cli::usage_status`; `docs/vfio.md` lists all.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            HostError::Sysfs { .. }
            | HostError::Note { .. }
            | HostError::Helper { .. }
            | HostError::NotRestored { .. }
            | HostError::Device(DeviceError::Read { .. }) => HostError::FAILED,
            HostError::Device(DeviceError::Missing(_)) => 3,
            HostError::InUse { .. } => 4,
            HostError::GroupInUse { .. } => 5,
            HostError::DriverSlow { .. } => 6,
            HostError::NotTaken { .. } => 7,
            HostError::NotPermitted(_) => 8,
            HostError::ReadOnly(_) => 9,
            HostError::NoIommu(_) => 10,
            HostError::NoVfioPci => 11,
            HostError::Busy { .. } => 12,
            HostError::NotSriov(_) => 13,
            HostError::Bridge(_) => 14,
            HostError::TooManyFunctions { .. } => 17,
            HostError::Interrupted { .. } => 130,
        }
    }
}

fn remedies(uses: &[Use]) -> String {
    let mut texts: Vec<&str> = uses.iter().map(Use::remedy).collect();
    texts.dedup();
    texts.join(", ")
}
