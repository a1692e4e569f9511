//! A BAR area mapped into this process for one purpose: to be the backing of a KVM memory slot.
//!
//! There is no way to read or write it from here. A load from a device that is off, in reset or gone raises SIGBUS;
//! code that cannot make one cannot die of one. The mapping keeps the device open, so dropping it (after its slots)
//! is what frees a device whose server has died.

// UNSAFETY: mmap and munmap of a file that the device server sent. The address leaves this file only as the number
// that `memory_slots.rs` hands to KVM.
#![expect(unsafe_code, reason = "mmap and munmap of a BAR, see above")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags};

/// `len` bytes of a device, mapped shared and writable; unmapped when dropped.
#[derive(Debug)]
pub struct DeviceMapping {
    /// Kept as a number: it is never dereferenced.
    address: usize,
    len: usize,
}

impl DeviceMapping {
    /// Maps `len` bytes at `offset` of `fd`. Both must be multiples of the page size, as must be what is mapped.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<DeviceMapping> {
        let page = rustix::param::page_size();
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        if len == 0 || !len.is_multiple_of(page) || !offset.is_multiple_of(page as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the area is empty or not made of whole pages",
            ));
        }
        // SAFETY: mmap's contract for a fresh shared file mapping:
        // - the address is null and MAP_FIXED is not given, so no existing mapping is replaced;
        // - the length is not zero and page aligned: checked above;
        // - nothing in this process accesses the mapping, so it does not matter that the peer may change or truncate it.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        Ok(DeviceMapping {
            address: address.addr(),
            len,
        })
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Where it is in this process, for KVM only.
    pub(super) fn address(&self) -> u64 {
        self.address as u64
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        // SAFETY: munmap's contract is that nothing uses the range any more:
        // - the range is exactly what `new` mapped, and only `drop` unmaps it;
        // - no reference to it was ever made, and KVM's slots hold an `Arc` of this object until they are deleted.
        let unmapped =
            unsafe { rustix::mm::munmap(ptr::without_provenance_mut(self.address), self.len) };
        assert!(
            unmapped.is_ok(),
            "munmap of an own mapping fails only if its range is wrong: {unmapped:?}"
        );
    }
}
