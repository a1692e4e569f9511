//! Lets go of the pages of the program and its libraries that only the start needed.
//!
//! Reading arguments, looking at sysfs, leaving the host and compiling filters touch most of the program once, and the kernel maps
//! 64 KiB around each place. Nothing takes such pages away while memory is there, so an idle server would keep them. What is
//! needed again is mapped again, out of the page cache, when it is touched.
//!
//! Only code and constants: whatever was ever writable holds what no file has. Others who have the same library mapped keep it. Not the
//! vDSO, which is the kernel's and no file.
#![expect(
    unsafe_code,
    reason = "where the program is mapped, and madvise, have no safe wrappers"
)]
// UNSAFETY: dl_iterate_phdr, the names and program headers that it shows, and madvise of read-only pages of files.

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::ptr;
use std::slice;

/// Linux on x86-64.
const PAGE_BYTES: u64 = 4096;

/// For the end of a start.
pub fn let_go() {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    // SAFETY: dl_iterate_phdr's contract:
    // - `note` has the callback's type, does not unwind and calls nothing that loads or unloads objects;
    // - the second argument is what `note` takes it for, and lives during the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut ranges).cast()) };
    for range in &ranges {
        let Some(len) = range.end.checked_sub(range.start) else {
            continue;
        };
        let (Ok(start), Ok(len)) = (usize::try_from(range.start), usize::try_from(len)) else {
            continue;
        };
        // SAFETY: madvise's contract for MADV_DONTNEED, which forgets what was written to a private mapping:
        // - nothing was: the range is whole pages of a segment that is mapped from the file without the right to write;
        //   no relocation is in them, since the linker refuses those in read-only segments (`-z text`, its default);
        // - so each page is read again with the same content, by whichever thread touches it.
        let advised = unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(start),
                len,
                libc::MADV_DONTNEED,
            )
        };
        if advised != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "the pages of the start stay mapped");
        }
    }
}

/// Notes the whole pages of the read-only segments of an object that comes from a file.
///
/// # Safety
/// As dl_iterate_phdr calls it, with a `Vec<Range<u64>>` that nothing else uses meanwhile.
unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, ranges: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr gives a valid structure for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: `let_go` gave a pointer to its vector, and waits for this call.
    let ranges = unsafe { &mut *ranges.cast::<Vec<Range<u64>>>() };
    if !info.dlpi_name.is_null() {
        // SAFETY: it is the object's name, which is there as long as the object is.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        // The program itself is without a name, and the vDSO without a folder.
        if !name.is_empty() && !name.to_bytes().starts_with(b"/") {
            return 0;
        }
    }
    // SAFETY: the program headers are mapped as long as their object is, and so many.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    ranges.extend(headers.iter().filter_map(|header| {
        let read_only = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        let start = info.dlpi_addr.checked_add(header.p_vaddr)?;
        let whole = whole_pages(start, header.p_filesz)?;
        read_only.then_some(whole)
    }));
    // Zero: on to the next.
    0
}

/// The pages that are in the segment from first to last byte: those at its ends may be another segment's, too.
fn whole_pages(start: u64, len: u64) -> Option<Range<u64>> {
    let end = start.checked_add(len)?;
    let end = end.checked_sub(end.checked_rem(PAGE_BYTES)?)?;
    let start = start.checked_next_multiple_of(PAGE_BYTES)?;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_without_page_borders_loses_only_whole_pages() {
        assert_eq!(whole_pages(0x1000, 0x2000), Some(0x1000..0x3000));
        assert_eq!(whole_pages(0x1e10, 0x2248), Some(0x2000..0x4000));
        assert_eq!(whole_pages(0x1e10, 0x300), None);
        assert_eq!(whole_pages(u64::MAX - 1, 0x300), None);
        assert_eq!(whole_pages(0x1000, 0), None);
    }
}
