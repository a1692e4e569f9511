//! Eventfds of the client: recognising them and firing them.
//!
//! The kernel names no kind for the file descriptors that it makes without a file ("anonymous inodes"), other than in
//! /proc, which the sandboxed process does not have. Three facts single the eventfd out, and none has a side
//! effect:
//! - `statx` gives no file type. It does not ask whoever serves a file (FUSE), as `fstat` would. That leaves out files, directories, devices, pipes and sockets.
//! - `write` of 8 bytes from an address that is not mapped fails with EFAULT, and of 4 bytes with EINVAL:
//!   an eventfd checks the length first and then copies 8 bytes (fs/eventfd.c, eventfd_write). An epoll, signalfd,
//!   timerfd, inotify, pidfd, userfaultfd, io_uring or KVM descriptor has no write and says EINVAL twice;
//!   a VFIO device says EFAULT twice.
//! - `preadv2` of 4 bytes without waiting fails with EINVAL: an eventfd wants 8. That leaves out fanotify, which answers
//!   writes like an eventfd and has no such read.
//!
//! Neither firing nor taking ever waits, whatever the client does to the flags and the counter that it shares: an
//! interrupt is signalled by the kernel (`signaller`), and a read says with each call that it does not wait.
#![expect(
    unsafe_code,
    reason = "write from an address that is not mapped, which a safe wrapper cannot express"
)]
// UNSAFETY: one call of write(2), which only reads memory, with an address at which there is none.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use protocol::{Errno, ReceivedFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::ReadWriteFlags;

use crate::irq::signaller::Signaller;

/// `st_mode` bits that hold the file type (S_IFMT).
const FILE_TYPE_MASK: u16 = 0o170_000;

/// An eventfd that the client sent for interrupts.
#[derive(Debug)]
pub struct Eventfd {
    fd: ReceivedFd,
    signaller: Arc<Signaller>,
}

impl Eventfd {
    /// Takes over a file descriptor that is an eventfd. Anything else is closed and refused.
    pub fn adopt(fd: ReceivedFd, signaller: &Arc<Signaller>) -> Result<Eventfd, Errno> {
        if !is_eventfd(fd.as_fd()) {
            return Err(Errno::INVAL);
        }
        Ok(Eventfd {
            fd,
            signaller: Arc::clone(signaller),
        })
    }

    /// Signals the eventfd, unless its counter is full: the client has 2^64-2 unseen interrupts then.
    pub fn fire(&self) {
        if !self.has_room() {
            return;
        }
        if let Err(errno) = self.signaller.signal(self.fd.as_fd()) {
            tracing::error!(%errno, "An interrupt cannot be signalled");
        }
    }

    /// Consumes the counter if it is not zero, and tells whether it was.
    pub fn take(&self) -> bool {
        read_without_waiting(self.fd.as_fd(), &mut [0; 8]).is_ok()
    }

    fn has_room(&self) -> bool {
        let mut poll = [PollFd::new(&self.fd, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok()
            && poll
                .first()
                .is_some_and(|entry| entry.revents().contains(PollFlags::OUT))
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether `fd` is an eventfd. See the head of this file for how that is known.
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE) else {
        return false;
    };
    stat.stx_mode & FILE_TYPE_MASK == 0
        && write_from_nowhere(fd, 8) == Some(Errno::FAULT)
        && write_from_nowhere(fd, 4) == Some(Errno::INVAL)
        && read_without_waiting(fd, &mut [0; 4]) == Err(Errno::INVAL)
}

/// RWF_NOWAIT holds for this call, whatever O_NONBLOCK says.
fn read_without_waiting(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<usize, Errno> {
    const NO_OFFSET: u64 = u64::MAX;
    let mut slices = [IoSliceMut::new(bytes)];
    rustix::io::preadv2(fd, &mut slices, NO_OFFSET, ReadWriteFlags::NOWAIT)
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
