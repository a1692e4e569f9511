//! Whether the file that a server sends for a BAR may become memory of the guest.
//!
//! A page of a mapped file comes from whoever serves the file. On FUSE, NFS and their like that is another process, which
//! can let a virtual CPU wait in the page fault for ever, beyond the reach of any signal. So a regular file is taken
//! from the kernel's own memory file systems only: a memfd, a file of /dev/shm, huge pages.
//! Not even the questions asked here may reach that process: F_GET_SEALS and a statx that does not synchronise are answered
//! by the kernel, fstat is not.
//! A device is taken as it is, with a node or, as VFIO's, without: that is what this is for. No socket: it can be mapped, too.
//! No seal is asked for: the file may shrink, since nothing but KVM touches the mapping, and it says so
//! (`kvm/device_mapping.rs`); the area is then trapped.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, StatxFlags};

/// Why a file cannot be a BAR.
#[derive(Debug, thiserror::Error)]
pub enum BarFileError {
    /// The kernel does not say what it is.
    #[error("ask what it is")]
    Unknown(#[source] io::Error),
    /// Its pages may be another process's to give.
    #[error(
        "it is no memory (a memfd, a file of tmpfs or of huge pages) and no device, and a page of anything else may never come"
    )]
    NoMemory,
}

/// Where the file ends, if it may be mapped. A device has no end that can be known.
pub(super) fn end_of(fd: BorrowedFd<'_>) -> Result<u64, BarFileError> {
    let unknown = |errno: rustix::io::Errno| BarFileError::Unknown(errno.into());
    // Only memory has seals.
    if rustix::fs::fcntl_get_seals(fd).is_ok() {
        let stat = rustix::fs::fstat(fd).map_err(unknown)?;
        return Ok(u64::try_from(stat.st_size).unwrap_or(0));
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE).map_err(unknown)?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        // What the kernel makes without a file has no type: VFIO's device that was opened through its group.
        FileType::CharacterDevice | FileType::Unknown => Ok(i64::MAX.unsigned_abs()),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::BlockDevice => Err(BarFileError::NoMemory),
    }
}
