//! Descriptors to go with a message.

use protocol::ReceivedFd;
use rustix::event::{EventfdFlags, eventfd};

/// `count` descriptors of no particular use.
pub fn descriptors(count: u8) -> Vec<ReceivedFd> {
    let some = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    (0..count).map(|_| some().into()).collect()
}
