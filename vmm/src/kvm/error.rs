//! What can go wrong with KVM: one variant per thing that was tried.

use std::io;

/// A KVM operation failed. The text says what was tried; the source says what the kernel answered.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// One system call.
    #[error("{step}")]
    Call {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel or the file is not what is needed.
    #[error("/dev/kvm: {0}")]
    Unsupported(&'static str),
    /// More device slots than KVM has.
    #[error("Map a device into the guest: all {limit} KVM memory slots are in use")]
    NoSlot {
        /// How many this kernel has.
        limit: usize,
    },
    /// A mapping into the guest that cannot be.
    #[error("Map {len:#x} bytes at guest address {gpa:#x}: {reason}")]
    BadSlot {
        /// Guest address.
        gpa: u64,
        /// Length.
        len: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// KVM refused a memory slot.
    #[error("Map {len:#x} bytes at guest address {gpa:#x}")]
    MapSlot {
        /// Guest address.
        gpa: u64,
        /// Length.
        len: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A slot that is not mapped.
    #[error("Unmap slot {0}: no such slot")]
    UnknownSlot(u32),
    /// All MSI routes are taken.
    #[error("Allocate an interrupt: all {limit} routes are in use")]
    NoGsi {
        /// How many there are.
        limit: u32,
    },
    /// A GSI that is not an allocated MSI route.
    #[error("Route interrupt {0}: it is not an allocated MSI route")]
    UnknownGsi(u32),
    /// An eventfd could not be tied to an interrupt.
    #[error("{step} interrupt {gsi}")]
    Irqfd {
        /// Attach or detach.
        step: &'static str,
        /// Which one.
        gsi: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An eventfd could not be tied to guest writes.
    #[error("{step} {address:#x}")]
    IoEvent {
        /// Attach or detach.
        step: &'static str,
        /// Where the guest writes.
        address: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A vCPU did not stop in time.
    #[error("vCPU {0} did not stop within {1:?}")]
    StuckVcpu(u8, std::time::Duration),
}

/// Maps an errno of kvm_ioctls to a failed step.
pub(crate) fn call(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |errno| KvmError::Call {
        step,
        source: io_error(errno),
    }
}

pub(crate) fn io_error(errno: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(errno.errno())
}
