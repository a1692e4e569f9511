//! Guest RAM in pages of 2 MiB, where its file has small ones: pinned in a fraction of the time, and fewer misses of
//! the TLB for the guest.
//!
//! A shared file takes huge pages by itself only where /sys/kernel/mm/transparent_hugepage/shmem_enabled says advise or
//! more. It says never on most hosts; MADV_COLLAPSE (Linux 6.1) makes them when asked, unless it says deny
//! (Documentation/admin-guide/mm/transhuge.rst). Both need a mapping at an address that fits the offset in the file.

// UNSAFETY: mmap and munmap of the file of guest RAM, madvise of that mapping. What is mapped stays so until the process
// ends: `MmapRegion` can be cloned, and KVM has its address.
#![expect(
    unsafe_code,
    reason = "a mapping at an address of our choice, see above"
)]

use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

const HUGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4096;
const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
const FLAGS: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

/// Maps `len` bytes of a file shared and writable, at an address where a huge page of the file can be one of the mapping.
pub(super) fn map(file: FileOffset, len: usize) -> io::Result<MmapRegion> {
    // Where more fits, it fits at a place of our choice too. Should another thread be faster, the kernel takes another place.
    let with_slack = len.checked_add(HUGE_PAGE);
    let with_slack = with_slack.ok_or(io::ErrorKind::InvalidInput)?;
    let free = map_at(ptr::null_mut(), &file, with_slack)?;
    // SAFETY: munmap's contract is that nothing uses the range: it was made above, and nobody has its address.
    unsafe { rustix::mm::munmap(free.cast(), with_slack) }?;
    let skipped = into_huge_page(&file)?.wrapping_sub(free.addr()) % HUGE_PAGE;
    let address = map_at(free.wrapping_byte_add(skipped), &file, len)?;
    let builder = MmapRegionBuilder::new(len)
        .with_file_offset(file)
        .with_mmap_prot(PROTECTION.bits().cast_signed())
        .with_mmap_flags(FLAGS.bits().cast_signed());
    // SAFETY: with_raw_mmap_pointer's contract is a mapping of this length that is there: `map_at` made it, and it is never
    // unmapped.
    let builder = unsafe { builder.with_raw_mmap_pointer(address) };
    builder.build().map_err(io::Error::other)
}

fn map_at(hint: *mut u8, file: &FileOffset, len: usize) -> io::Result<*mut u8> {
    if len == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: mmap's contract without MAP_FIXED: no mapping is replaced, whatever the hint is; the length is not zero.
    let address = unsafe {
        rustix::mm::mmap(
            hint.cast(),
            len,
            PROTECTION,
            FLAGS,
            file.file().as_fd(),
            file.start(),
        )
    }?;
    Ok(address.cast())
}

/// How far into a huge page of the file the mapping begins.
fn into_huge_page(file: &FileOffset) -> io::Result<usize> {
    usize::try_from(file.start() % HUGE_PAGE as u64).map_err(io::Error::other)
}

/// Pages that the guest touches from now on shall be huge where the host allows that for memory that asks.
pub(super) fn prefer(mapping: &MmapRegion) {
    // SAFETY: madvise's contract for MADV_HUGEPAGE, which changes no content:
    // - the range is one mapping: address and length are both the region's own;
    // - it stays mapped during the call: `mapping` is borrowed.
    let advised = unsafe {
        rustix::mm::madvise(
            mapping.as_ptr().cast(),
            mapping.size(),
            Advice::LinuxHugepage,
        )
    };
    if let Err(errno) = advised {
        // A kernel without transparent huge pages: the guest runs, only slower.
        tracing::debug!(%errno, "no transparent huge pages for guest memory");
    }
}

/// Makes a mapping's memory huge pages, as far as the host has them, and takes what is not there yet. For memory that is to be
/// pinned whole. An error says why not all of it is.
pub(super) fn collapse(mapping: &MmapRegion) -> io::Result<()> {
    // One call, since each begins with work on all of the host's CPUs (lru_add_drain_all).
    let all = || advise(mapping, 0, mapping.size(), libc::MADV_COLLAPSE);
    // Where a device has been before, that is all.
    if all().is_ok() {
        return Ok(());
    }
    // A huge page is not made of nothing (SCAN_TRUNCATED in mm/khugepaged.c): a small one of it has to be there.
    for offset in (0..mapping.size()).step_by(HUGE_PAGE) {
        advise(mapping, offset, SMALL_PAGE, libc::MADV_POPULATE_READ)?;
    }
    all()
}

/// `offset` and `len` are inside the mapping.
fn advise(mapping: &MmapRegion, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
    let inside = offset
        .checked_add(len)
        .is_some_and(|end| end <= mapping.size());
    if !inside {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let address = mapping.as_ptr().wrapping_add(offset);
    // SAFETY: madvise's contract for MADV_POPULATE_READ and MADV_COLLAPSE, which change no content:
    // - the range is in one mapping: checked above;
    // - it stays mapped during the call: `mapping` is borrowed.
    let advised = unsafe { libc::madvise(address.cast(), len, advice) };
    if advised == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::MemfdFlags;

    use super::*;

    #[test]
    fn address_is_as_far_into_a_huge_page_as_the_offset() {
        let file = rustix::fs::memfd_create("huge-pages", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 64 << 20).unwrap();
        for (offset, len) in [(0, 32 << 20), (6 << 20, 4096), (0x20_1000, 3 << 20)] {
            let fits = || {
                let file = FileOffset::new(File::from(file.try_clone().unwrap()), offset);
                let mapping = map(file, len).unwrap();
                assert_eq!(mapping.size(), len);
                assert_eq!(mapping.file_offset().unwrap().start(), offset);
                mapping.as_ptr().addr() as u64 % HUGE_PAGE as u64 == offset % HUGE_PAGE as u64
            };
            // Another test's thread may take the place.
            assert!((0..5).any(|_| fits()), "{len:#x} bytes at {offset:#x}");
        }
    }

    #[test]
    fn collapsed_memory_keeps_its_content_and_is_in_huge_pages() {
        let control = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let Ok(control) = std::fs::read_to_string(control) else {
            eprintln!("skipped: this kernel has no huge pages for shared memory");
            return;
        };
        if control.contains("[deny]") {
            eprintln!("skipped: the administrator denies huge pages for shared memory");
            return;
        }
        let file = rustix::fs::memfd_create("huge-pages", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8 << 20).unwrap();
        rustix::io::pwrite(&file, b"guest", 3 << 20).unwrap();
        let reader = File::from(file.try_clone().unwrap());
        let mapping = map(FileOffset::new(File::from(file), 0), 8 << 20).unwrap();
        if let Err(error) = collapse(&mapping) {
            eprintln!("skipped: no huge pages on this machine at present: {error}");
            return;
        }
        let begin = format!("{:x}-", mapping.as_ptr().addr());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin));
        let huge = lines.find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
        assert_eq!(huge.unwrap().trim(), "8192 kB");
        let mut content = [0; 5];
        rustix::io::pread(&reader, &mut content, 3 << 20).unwrap();
        assert_eq!(&content, b"guest");
    }
}
