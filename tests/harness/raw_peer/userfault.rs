//! A userfaultfd, to be sent as what it is not.

#![expect(
    unsafe_code,
    reason = "rustix calls this unsafe: who holds the descriptor can decide what the pages of its maker hold"
)]
// UNSAFETY: one system call, in `userfaultfd`.

use std::os::fd::OwnedFd;

use rustix::io;
use rustix::mm::UserfaultfdFlags;

/// include/uapi/linux/userfaultfd.h, UFFD_USER_MODE_ONLY: what any user may have.
const USER_MODE_ONLY: UserfaultfdFlags = UserfaultfdFlags::from_bits_retain(1);

/// One that watches no memory.
///
/// # Errors
/// This kernel, or the container around this process, has none to give.
pub(super) fn userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: nothing is registered with it, so no page of this process depends on who holds it.
    unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | USER_MODE_ONLY) }
}
