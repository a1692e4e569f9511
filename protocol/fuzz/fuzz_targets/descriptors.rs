//! Descriptors to go with a message.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;

/// `count` descriptors of no particular use.
pub fn descriptors(count: u8) -> Vec<OwnedFd> {
    let some = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    (0..count).map(|_| some()).collect()
}
