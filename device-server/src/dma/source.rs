//! Judges the file descriptor of a DMA_MAP before anything maps it.
//!
//! Accepted is a memfd (plain or huge pages) that is sealed against shrinking and long enough, opened for what the
//! map asks. Nothing else is: a file that can shrink raises SIGBUS in whoever touches it, a file on a FUSE or
//! network file system stalls its reader for ever, a device node is not memory. None of the calls here can block
//! on the client, and none needs a path.

use std::os::fd::BorrowedFd;

use protocol::{DmaMapFlags, Errno, IovaRange};
use rustix::fs::{OFlags, SealFlags};

/// `f_type` of hugetlbfs, where lengths and offsets must be multiples of the huge page
/// (include/uapi/linux/magic.h, HUGETLBFS_MAGIC).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A file descriptor that passed: its bytes `file_offset..file_offset + len` can be mapped and stay there.
#[derive(Debug, Clone, Copy)]
pub struct MemorySource<'a> {
    /// The memfd.
    pub fd: BorrowedFd<'a>,
    /// Where in it the memory starts.
    pub file_offset: u64,
    /// The I/O virtual addresses it is for.
    pub range: IovaRange,
}

/// Why a file descriptor was refused, in words for the log, and the errno for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SourceRefusal {
    /// What the client is told.
    pub errno: Errno,
    /// What the log says.
    pub reason: &'static str,
}

impl<'a> MemorySource<'a> {
    /// Judges `fd` as backing for `range` with the access that `flags` ask for.
    pub fn check(
        fd: BorrowedFd<'a>,
        file_offset: u64,
        range: IovaRange,
        flags: DmaMapFlags,
    ) -> Result<MemorySource<'a>, SourceRefusal> {
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|errno| {
            refusal(
                errno,
                "the file descriptor is not a memfd (F_GET_SEALS failed)",
            )
        })?;
        check_access_mode(fd, flags)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(refusal(
                Errno::PERM,
                "the memfd is not sealed with F_SEAL_SHRINK",
            ));
        }
        let writable = flags.contains(DmaMapFlags::WRITE);
        if writable && seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(refusal(
                Errno::PERM,
                "the memfd is sealed against writing, and the map asks to write",
            ));
        }
        check_size(fd, file_offset, range)?;
        check_huge_pages(fd, file_offset, range)?;
        Ok(MemorySource {
            fd,
            file_offset,
            range,
        })
    }
}

/// The map needs a readable descriptor (mmap of a shared file always does), and a writable one to write.
fn check_access_mode(fd: BorrowedFd<'_>, flags: DmaMapFlags) -> Result<(), SourceRefusal> {
    let open_flags = rustix::fs::fcntl_getfl(fd).map_err(|errno| {
        refusal(
            errno,
            "the file descriptor has no access mode (F_GETFL failed)",
        )
    })?;
    if open_flags.contains(OFlags::PATH) {
        return Err(refusal(Errno::BADF, "the file descriptor is an O_PATH one"));
    }
    let mode = open_flags & OFlags::ACCMODE;
    if mode == OFlags::WRONLY {
        return Err(refusal(Errno::ACCESS, "the file descriptor is write-only"));
    }
    if mode == OFlags::RDONLY && flags.contains(DmaMapFlags::WRITE) {
        return Err(refusal(
            Errno::ACCESS,
            "the file descriptor is read-only, and the map asks to write",
        ));
    }
    Ok(())
}

fn check_size(fd: BorrowedFd<'_>, file_offset: u64, range: IovaRange) -> Result<(), SourceRefusal> {
    let stat = rustix::fs::fstat(fd)
        .map_err(|errno| refusal(errno, "the size is not known (fstat failed)"))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let end = file_offset
        .checked_add(range.len())
        .ok_or_else(|| refusal(Errno::INVAL, "file offset and length exceed 2^64"))?;
    if end > size {
        return Err(refusal(
            Errno::INVAL,
            "the memfd is shorter than file offset and length",
        ));
    }
    Ok(())
}

/// mmap rounds a length up to the huge page, munmap refuses what is not a multiple: both must be one.
fn check_huge_pages(
    fd: BorrowedFd<'_>,
    file_offset: u64,
    range: IovaRange,
) -> Result<(), SourceRefusal> {
    let stat = rustix::fs::fstatfs(fd)
        .map_err(|errno| refusal(errno, "the file system is not known (fstatfs failed)"))?;
    if u64::try_from(stat.f_type).unwrap_or(0) != HUGETLBFS_MAGIC {
        return Ok(());
    }
    let page = u64::try_from(stat.f_bsize).unwrap_or(0);
    let aligned = |value: u64| value.checked_rem(page) == Some(0);
    if !aligned(file_offset) || !aligned(range.len()) {
        return Err(refusal(
            Errno::INVAL,
            "file offset or length is not a multiple of the memfd's huge page",
        ));
    }
    Ok(())
}

fn refusal(errno: Errno, reason: &'static str) -> SourceRefusal {
    SourceRefusal { errno, reason }
}

#[cfg(test)]
mod tests;
