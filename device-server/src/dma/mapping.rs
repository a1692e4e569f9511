//! A shared mapping of client memory in this process.
//!
//! The vfio backend maps, hands the address to VFIO_IOMMU_MAP_DMA and drops the mapping again, so that no client
//! memory stays mapped. A software device keeps it while the DMA map lives (`access.rs`).
//! Nothing here reads or writes the memory.
#![expect(
    unsafe_code,
    reason = "mmap and munmap of a file descriptor that the client sent"
)]
// UNSAFETY: the mapping is made at an address that the kernel picks, is never handed out as a reference, and is
// unmapped exactly once, on drop.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use protocol::{Errno, IovaRange};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::VolatileSlice;

/// Memory of the client, mapped shared. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
    writable: bool,
}

impl Mapping {
    /// Maps `range.len()` bytes of `fd` from `file_offset` on, readable, and writable if `writable`.
    ///
    /// The caller has judged the fd (`MemorySource::check`): for a memfd sealed against shrinking the pages cannot
    /// vanish, so that no access raises SIGBUS (other than for memory the host cannot provide).
    pub fn new(
        fd: BorrowedFd<'_>,
        file_offset: u64,
        range: IovaRange,
        writable: bool,
    ) -> Result<Mapping, Errno> {
        let len = usize::try_from(range.len()).map_err(|_| Errno::NOMEM)?;
        let protection = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: mmap's contract for a fresh shared file mapping:
        // - the address is null and MAP_FIXED is not set: no existing mapping is replaced;
        // - the length is not zero: an `IovaRange` is never empty;
        // - the pointer is only used through `address`, for VFIO and for `VolatileSlice`, never as a reference.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                fd,
                file_offset,
            )
        }?;
        let address = NonNull::new(address.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let mapping = Mapping {
            address,
            len,
            writable,
        };
        mapping.prefer_huge_pages();
        Ok(mapping)
    }

    /// Where the host allows it for shared memory that asks: whoever touches a page first decides how large it is, and pinning
    /// memory for DMA touches all of it.
    fn prefer_huge_pages(&self) {
        // SAFETY: madvise's contract for MADV_HUGEPAGE, which changes no content:
        // - the range is one mapping: address and length are those that `mmap` gave;
        // - it stays mapped during the call: `self` is borrowed.
        let advised = unsafe {
            rustix::mm::madvise(
                self.address.as_ptr().cast(),
                self.len,
                Advice::LinuxHugepage,
            )
        };
        if let Err(errno) = advised {
            tracing::debug!(%errno, "no transparent huge pages for client memory");
        }
    }

    /// Where the memory is in this process.
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// The memory as something that can be copied from and to, and never referenced.
    pub fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: VolatileSlice's contract:
        // - address and length are a live mapping of this process: `new` made it, only `drop` unmaps it, and the
        //   slice's lifetime borrows `self`;
        // - all further access is volatile and through the slice: `address` is given to VFIO only as a number;
        // - a write through a read-only mapping faults: `SharedDma::check` refuses it before;
        // - no access raises SIGBUS: the file cannot shrink (`MemorySource::check` demands F_SEAL_SHRINK).
        unsafe { VolatileSlice::new(self.address.as_ptr(), self.len) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether it was mapped writable.
    pub fn writable(&self) -> bool {
        self.writable
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: munmap's contract:
        // - address and length are those that `mmap` gave in `new`, and nothing else unmaps them;
        // - nobody uses the memory any more: every user borrows or owns this `Mapping`.
        let result = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.len) };
        if let Err(errno) = result {
            tracing::error!(%errno, len = self.len, "Unmap client memory");
        }
    }
}

// SAFETY: the mapping is plain memory that any thread of this process may unmap; `Mapping` gives no access by itself.
unsafe impl Send for Mapping {}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use protocol::Iova;
    use rustix::fs::MemfdFlags;

    use super::*;

    #[test]
    fn mapping_asks_for_huge_pages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            eprintln!("skipped: this kernel has no transparent huge pages");
            return;
        }
        let memory = rustix::fs::memfd_create("mapping-test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 4 << 20).unwrap();
        let range = IovaRange::new(Iova(0), 4 << 20).unwrap();
        let mapping = Mapping::new(memory.as_fd(), 0, range, true).unwrap();
        let begin = format!("{:x}-", mapping.address().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&begin))
            .find(|line| line.starts_with("VmFlags"))
            .unwrap();
        assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
    }
}
