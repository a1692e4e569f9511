//! The eventfd of the doorbells: the client's KVM signals it where the guest would else cause a message.
//!
//! It is looked at when the driver reads the count. The client has it too and may do with it what it likes; a look
//! never waits.

use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::OwnedFd;

use protocol::Errno;
use rustix::event::EventfdFlags;
use rustix::io::ReadWriteFlags;

use crate::backends::test::layout;

/// What rings.
#[derive(Debug)]
pub(super) struct Doorbell {
    eventfd: OwnedFd,
}

impl Doorbell {
    /// One that nobody else has yet.
    pub(super) fn new() -> Result<Doorbell, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Doorbell {
            eventfd: rustix::event::eventfd(0, flags)?,
        })
    }

    /// A file descriptor of it, for clients.
    pub(super) fn share(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.eventfd, 0)
    }

    /// How often it rang since the last call.
    pub(super) fn take(&self) -> u64 {
        const NO_OFFSET: u64 = u64::MAX;
        let mut count = [0; 8];
        let mut slices = [IoSliceMut::new(&mut count)];
        let flags = ReadWriteFlags::NOWAIT;
        match rustix::io::preadv2(&self.eventfd, &mut slices, NO_OFFSET, flags) {
            Ok(8) => u64::from_ne_bytes(count),
            Ok(_) | Err(_) => 0,
        }
    }
}

/// Does an access touch the register that counts?
pub(super) fn is_counted_in(offset: u64, len: usize) -> bool {
    let register = u64::from(layout::RINGS);
    let Range { start, end } = offset..offset.saturating_add(len.try_into().unwrap_or(u64::MAX));
    start < register.saturating_add(4) && end > register
}
