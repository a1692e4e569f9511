//! A file that this process can read again without keeping a copy: mapped read-only, its pages given back after each use.
//!
//! A process in its jail opens no file and seeks in none; a mapping needs neither. The content is what the file holds at
//! the time: one that was replaced (written anew and renamed) is still the old one, one that was overwritten in place is
//! the new one. A file that became shorter is an error, not a SIGBUS; only one that is cut in the microseconds between
//! the check and the copy ends the process. There is no deadline: a file system that does not answer holds up the reset.

// UNSAFETY: mmap, madvise and munmap of a file that the operator named. The mapping is only ever copied from.
#![expect(unsafe_code, reason = "a mapping of a boot file, see above")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::VolatileSlice;

/// The first `len` bytes of a file. Unmapped when dropped.
#[derive(Debug)]
pub struct BootFile {
    /// None for an empty file, which cannot be mapped.
    address: Option<NonNull<u8>>,
    len: usize,
}

impl BootFile {
    /// Maps `len` bytes from the start of `file`, which may be closed afterwards.
    pub fn map(file: BorrowedFd<'_>, len: usize) -> io::Result<BootFile> {
        if len == 0 {
            return Ok(BootFile { address: None, len });
        }
        // SAFETY: mmap's contract for a fresh file mapping:
        // - the address is null and MAP_FIXED is not given, so no existing mapping is replaced;
        // - the length is not zero: checked above;
        // - the pointer is only used by `copy`, `advise` and `drop`, never as a reference.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file,
                0,
            )
        }?;
        Ok(BootFile {
            address: NonNull::new(address.cast()),
            len,
        })
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// What the file holds now. Fails if it has become shorter, or cannot be read.
    pub fn copy(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.len)?;
        bytes.resize(self.len, 0);
        let Some(address) = self.address else {
            return Ok(bytes);
        };
        // Reads all of it from the file, and fails where the first access would raise SIGBUS.
        self.advise(address, Advice::LinuxPopulateRead)?;
        // SAFETY: VolatileSlice's contract:
        // - address and length are a live mapping of this process: `map` made it and only `drop` unmaps it;
        // - all access is volatile and a read: nobody has the slice but the copy in the next line.
        let mapped = unsafe { VolatileSlice::new(address.as_ptr(), self.len) };
        mapped.copy_to(&mut bytes);
        self.advise(address, Advice::LinuxDontNeed)?;
        Ok(bytes)
    }

    fn advise(&self, address: NonNull<u8>, advice: Advice) -> io::Result<()> {
        // SAFETY: madvise's contract:
        // - the range is one mapping: address and length are what `map` made;
        // - no advice given here changes content: the mapping is private and was never written.
        Ok(unsafe { rustix::mm::madvise(address.as_ptr().cast(), self.len, advice) }?)
    }
}

impl Drop for BootFile {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        // SAFETY: munmap's contract is that nothing uses the range any more:
        // - it is exactly what `map` mapped, and only `drop` unmaps it;
        // - `copy` keeps nothing of it.
        let unmapped = unsafe { rustix::mm::munmap(address.as_ptr().cast(), self.len) };
        assert!(
            unmapped.is_ok(),
            "munmap of an own mapping fails only if its range is wrong: {unmapped:?}"
        );
    }
}

// SAFETY: read-only memory of the process, which any thread may read or unmap.
unsafe impl Send for BootFile {}
// SAFETY: `copy` only reads; that another thread gives the pages back meanwhile makes the kernel read them again.
unsafe impl Sync for BootFile {}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use rustix::fs::MemfdFlags;

    use super::*;

    const LEN: usize = 8 << 20;

    fn file() -> File {
        let mut file =
            File::from(rustix::fs::memfd_create("boot-file", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&vec![7; LEN]).unwrap();
        file
    }

    fn resident_kib(mapped: &BootFile) -> u64 {
        let begin = format!("{:x}-", mapped.address.unwrap().as_ptr().addr());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What a VM costs beyond its guest's memory does not grow with its kernel.
    #[test]
    fn copied_file_is_not_in_memory_afterwards_and_can_be_copied_again() {
        let mapped = BootFile::map(file().as_fd(), LEN).unwrap();
        for _ in ["first boot", "reset"] {
            assert_eq!(mapped.copy().unwrap(), vec![7; LEN]);
            assert_eq!(resident_kib(&mapped), 0);
        }
    }

    #[test]
    fn file_that_became_shorter_is_an_error() {
        let file = file();
        let mapped = BootFile::map(file.as_fd(), LEN).unwrap();
        file.set_len(4096).unwrap();
        let error = mapped.copy().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn empty_file_is_an_empty_copy() {
        let mapped = BootFile::map(file().as_fd(), 0).unwrap();
        assert!(mapped.copy().unwrap().is_empty());
    }
}
