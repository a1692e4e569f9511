//! A shared mapping of client memory in this process.
//!
//! The vfio backend maps, hands the address to VFIO_IOMMU_MAP_DMA and drops the mapping again, so that no client
//! memory stays mapped. A software device keeps it while the DMA map lives (`access.rs`).
//! Nothing here reads or writes the memory.
#![expect(
    unsafe_code,
    reason = "mmap and munmap of a file descriptor that the client sent"
)]
// UNSAFETY: the mapping is made where nothing is, is never handed out as a reference, and is
// unmapped exactly once, on drop.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use protocol::{Errno, IovaRange};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::VolatileSlice;

const HUGE_PAGE: usize = 2 << 20;
const HUGE_PAGE_MASK: u64 = (2 << 20) - 1;

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
        let hint = place_for_huge_pages(len, file_offset);
        // SAFETY: mmap's contract for a fresh shared file mapping:
        // - MAP_FIXED is not set: no existing mapping is replaced, whatever the address is;
        // - the length is not zero: an `IovaRange` is never empty;
        // - the pointer is only used through `address`, for VFIO and for `VolatileSlice`, never as a reference.
        let address =
            unsafe { rustix::mm::mmap(hint, len, protection, MapFlags::SHARED, fd, file_offset) }?;
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

/// An address where a huge page of the file can be one of the mapping, or null. The kernel picks none for a file of memory, and a
/// huge page that is mapped as 512 small ones is pinned one by one: 0.6 s for 512 MiB in the lab, and 0.02 s where it is not. Should
/// another thread take the place first, the kernel takes another.
fn place_for_huge_pages(len: usize, file_offset: u64) -> *mut c_void {
    let Some(with_slack) = len.checked_add(HUGE_PAGE).filter(|_| len >= HUGE_PAGE) else {
        return ptr::null_mut();
    };
    // SAFETY: mmap's contract for fresh anonymous memory: the address is null and MAP_FIXED is not set, so no existing mapping is
    // replaced; the length is not zero; nobody uses the pointer but `munmap` below.
    let free = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            with_slack,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    let Ok(free) = free else {
        return ptr::null_mut();
    };
    // SAFETY: munmap's contract is that nothing uses the range: it was made above, and nobody has its address.
    if let Err(errno) = unsafe { rustix::mm::munmap(free, with_slack) } {
        tracing::error!(%errno, len = with_slack, "Unmap what shows where there is room");
    }
    // Of the low bits alone: more of the offset does not matter.
    let into_huge_page = usize::try_from(file_offset & HUGE_PAGE_MASK).unwrap_or_default();
    let skipped = into_huge_page.wrapping_sub(free.addr()) & (HUGE_PAGE - 1);
    free.wrapping_byte_add(skipped)
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
    fn mapping_fits_the_huge_pages_of_its_file() {
        const LEN: u64 = 8 << 20;
        let memory = rustix::fs::memfd_create("mapping-test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 2 * LEN).unwrap();
        let mut others = Vec::new();
        for offset in [0, 0x1000, 0x20_0000, 0x3f_f000] {
            // Whatever lies beside it.
            let page = IovaRange::new(Iova(0), 0x1000).unwrap();
            others.push(Mapping::new(memory.as_fd(), 0, page, true).unwrap());
            let range = IovaRange::new(Iova(0), LEN).unwrap();
            // Another test's thread may take the place.
            let fits = (0..5).any(|_| {
                let mapping = Mapping::new(memory.as_fd(), offset, range, true).unwrap();
                mapping.address().addr().get() as u64 % 0x20_0000 == offset % 0x20_0000
            });
            assert!(fits, "{offset:#x}");
        }
    }

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
