//! Guest writes that signal an eventfd inside the kernel (ioeventfds), so that no vCPU leaves the guest for long.

use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::{
    kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio,
};

use super::error::KvmError;
use super::handles::set_ioevent;
use super::vm::Vm;

/// Which writes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEvent {
    /// Guest address, or port.
    pub address: u64,
    /// An I/O port.
    pub pio: bool,
    /// Width of the write in bytes; 0 for any.
    pub width: u8,
    /// Only this value, if one is given.
    pub datamatch: Option<u64>,
}

impl Vm {
    /// Lets these writes signal `eventfd`, instead of being trapped.
    pub fn attach_ioevent(&self, event: &IoEvent, eventfd: BorrowedFd<'_>) -> Result<(), KvmError> {
        self.ioevent("Attach an eventfd to writes of", event, eventfd, 0)
    }

    /// Undoes [`Self::attach_ioevent`]: they are trapped again.
    pub fn detach_ioevent(&self, event: &IoEvent, eventfd: BorrowedFd<'_>) -> Result<(), KvmError> {
        let deassign = 1 << kvm_ioeventfd_flag_nr_deassign;
        self.ioevent("Detach an eventfd from writes of", event, eventfd, deassign)
    }

    fn ioevent(
        &self,
        step: &'static str,
        event: &IoEvent,
        eventfd: BorrowedFd<'_>,
        flags: u32,
    ) -> Result<(), KvmError> {
        let mut flags = flags;
        if event.pio {
            flags |= 1 << kvm_ioeventfd_flag_nr_pio;
        }
        if event.datamatch.is_some() {
            flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
        }
        let argument = kvm_ioeventfd {
            datamatch: event.datamatch.unwrap_or(0),
            addr: event.address,
            len: event.width.into(),
            fd: eventfd.as_raw_fd(),
            flags,
            ..Default::default()
        };
        set_ioevent(self.fd(), &argument).map_err(|source| KvmError::IoEvent {
            step,
            address: event.address,
            source,
        })
    }
}
