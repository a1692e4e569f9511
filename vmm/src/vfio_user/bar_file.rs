//! Whether the file that a server sends for a BAR may become memory of the guest.
//!
//! A page of a mapped file comes from whoever serves the file. On FUSE, NFS and their like that is another process, which
//! can let a virtual CPU wait in the page fault for ever, beyond the reach of any signal. So a regular file is taken
//! from the kernel's own memory file systems only: a memfd, a file of /dev/shm, huge pages.
//! What is no regular file is taken as it is: of those only devices can be mapped, and VFIO's are what this is for.
//! No seal is asked for: the file may shrink, since nothing but KVM touches the mapping, and it says so
//! (`kvm/device_mapping.rs`); the area is then trapped.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::FileType;

/// File system types (include/uapi/linux/magic.h) whose pages are the kernel's own.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Why a file cannot be a BAR.
#[derive(Debug, thiserror::Error)]
pub enum BarFileError {
    /// The kernel does not say what it is.
    #[error("ask what it is")]
    Unknown(#[source] io::Error),
    /// Its pages may be another process's to give.
    #[error(
        "it is on a file system of type {0:#x}; only memory is taken (a memfd, tmpfs, huge pages), since a page of any other file may never come"
    )]
    FileSystem(i64),
}

/// Where the file ends, if it may be mapped. What is no regular file has no end that can be known.
pub(super) fn end_of(fd: BorrowedFd<'_>) -> Result<u64, BarFileError> {
    let unknown = |errno: rustix::io::Errno| BarFileError::Unknown(errno.into());
    let stat = rustix::fs::fstat(fd).map_err(unknown)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(i64::MAX.unsigned_abs());
    }
    let kind = rustix::fs::fstatfs(fd).map_err(unknown)?.f_type;
    if ![TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&kind) {
        return Err(BarFileError::FileSystem(kind));
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}
