//! Eventfds of the client: recognising them and firing them.
//!
//! The kernel names no kind for the file descriptors that it makes without a file ("anonymous inodes"), other than in
//! /proc, which the sandboxed process does not have. Two facts single the eventfd out, and neither has a side
//! effect:
//! - `fstat` gives no file type. That leaves out files, directories, devices, pipes and sockets.
//! - `write` of 8 bytes from an address that is not mapped fails with EFAULT, and of 4 bytes with EINVAL:
//!   an eventfd checks the length first and then copies 8 bytes (fs/eventfd.c, eventfd_write). An epoll, signalfd,
//!   timerfd, inotify, pidfd, userfaultfd, io_uring or KVM descriptor has no write and says EINVAL twice;
//!   a VFIO device says EFAULT twice.
//!
//! Firing: whether a write blocks depends on a flag that the client shares and changes when it likes, and a full
//! counter makes it block. So the counter is looked at first, and an interrupt that finds it full is dropped: the
//! client has 2^64-2 unseen ones already. A client that fills the counter between the look and the write holds up
//! the thread of its own device, and no other.
#![expect(
    unsafe_code,
    reason = "write from an address that is not mapped, which a safe wrapper cannot express"
)]
// UNSAFETY: one call of write(2), which only reads memory, with an address at which there is none.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use protocol::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};

/// `st_mode` bits that hold the file type (S_IFMT).
const FILE_TYPE_MASK: u32 = 0o170_000;

/// An eventfd that the client sent for interrupts.
#[derive(Debug)]
pub struct Eventfd {
    fd: OwnedFd,
}

impl Eventfd {
    /// Takes over a file descriptor that is an eventfd. Anything else is closed and refused.
    pub fn adopt(fd: OwnedFd) -> Result<Eventfd, Errno> {
        if is_eventfd(fd.as_fd()) {
            Ok(Eventfd { fd })
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Signals the eventfd, unless its counter is full.
    pub fn fire(&self) {
        if !self.ready(PollFlags::OUT) {
            return;
        }
        // The client may have closed its end or filled the counter since: nothing to tell anybody.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Consumes the counter if it is not zero, and tells whether it was.
    pub fn take(&self) -> bool {
        let mut counter = [0; 8];
        self.ready(PollFlags::IN) && rustix::io::read(&self.fd, &mut counter).is_ok()
    }

    fn ready(&self, wanted: PollFlags) -> bool {
        let mut poll = [PollFd::new(&self.fd, wanted)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok()
            && poll
                .first()
                .is_some_and(|entry| entry.revents().contains(wanted))
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether `fd` is an eventfd. See the head of this file for how that is known.
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return false;
    };
    stat.st_mode & FILE_TYPE_MASK == 0
        && write_from_nowhere(fd, 8) == Some(Errno::FAULT)
        && write_from_nowhere(fd, 4) == Some(Errno::INVAL)
}

/// The error that `write` of `len` bytes from unmapped memory ends in.
fn write_from_nowhere(fd: BorrowedFd<'_>, len: usize) -> Option<Errno> {
    // The first page of a Linux process is never mapped (vm.mmap_min_addr, and nothing here asks for it).
    let nowhere = std::ptr::without_provenance::<libc::c_void>(8);
    // SAFETY: write(2) reads at most `len` bytes at the address and reports EFAULT where there is no memory; it writes
    // nothing into this process. The fd is open for the duration of the borrow.
    let written = unsafe { libc::write(fd.as_raw_fd(), nowhere, len) };
    if written >= 0 {
        return None;
    }
    std::io::Error::last_os_error()
        .raw_os_error()
        .map(Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests;
