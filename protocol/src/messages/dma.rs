//! DMA_MAP and DMA_UNMAP: which memory of the client the device may touch.
//!
//! Spec: vfio-user, "VFIO_USER_DMA_MAP": argsz u32, flags u32, offset u64, address u64, size u64, at most one fd.
//! "VFIO_USER_DMA_UNMAP": argsz u32, flags u32, address u64, size u64; the reply echoes them. Flag 2 takes all maps
//! away (not in the spec, in use); flag 1, the removed dirty bitmap, is refused.
//! Overlaps, the kind of file, its size and seals are the server's to check.
//! Limits: `PAGE_BYTES` alignment, `MAX_DMA_MAP_BYTES` (answered with ENOSPC).

use crate::codec::{Put, Reader};
use crate::ids::{Iova, IovaRange};
use crate::limits::{MAX_DMA_MAP_BYTES, PAGE_BYTES};
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;
use rustix::io::Errno;

pub use vfio_user::DmaMapFlags;

const MAP_BYTES: u32 = 32;
const UNMAP_BYTES: u32 = 24;
const UNMAP_ALL: u32 = 2;

/// A DMA_MAP.
#[derive(Debug)]
pub struct DmaMap {
    /// Addresses that the device will use; page aligned.
    pub range: IovaRange,
    /// Where the range starts in the file; page aligned, 0 without a file.
    pub file_offset: u64,
    /// READ, WRITE or both; nothing else.
    pub flags: DmaMapFlags,
    /// The memory. Without it, it can be reached only by DMA_READ and DMA_WRITE.
    pub fd: Option<ReceivedFd>,
}

impl DmaMap {
    /// The device may read this memory.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.flags.contains(DmaMapFlags::READ)
    }

    /// The device may write this memory.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.flags.contains(DmaMapFlags::WRITE)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// Anything in it does not hold together. `fds` are closed then.
    pub fn decode_request(body: &[u8], mut fds: Vec<ReceivedFd>) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (offset, address, size) = (reader.u64()?, reader.u64()?, reader.u64()?);
        if argsz < MAP_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        if flags == 0 || flags & !DmaMapFlags::READ_WRITE.bits() != 0 {
            return Err(BadField::invalid("flags", flags));
        }
        if fds.len() > 1 {
            return Err(BadField::length("number of file descriptors", fds.len()));
        }
        let fd = fds.pop();
        let file_offset = if fd.is_some() { offset } else { 0 };
        Ok(Self {
            range: map_range(address, size, file_offset)?,
            file_offset,
            flags: DmaMapFlags::from_bits_retain(flags),
            fd,
        })
    }

    /// Appends the request; the file descriptor goes beside it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(MAP_BYTES);
        out.put_u32(self.flags.bits());
        out.put_u64(self.file_offset);
        out.put_u64(self.range.start().0);
        out.put_u64(self.range.len());
    }
}

fn map_range(address: u64, size: u64, file_offset: u64) -> Result<IovaRange, BadField> {
    for (field, value) in [
        ("address", address),
        ("size", size),
        ("offset", file_offset),
    ] {
        if !value.is_multiple_of(PAGE_BYTES) {
            return Err(BadField::invalid(field, value));
        }
    }
    let range = IovaRange::new(Iova(address), size).map_err(|_| BadField::invalid("size", size))?;
    let file_end = file_offset.checked_add(size);
    if file_end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(BadField::invalid("offset", file_offset));
    }
    if size > MAX_DMA_MAP_BYTES {
        return Err(BadField::invalid("size", size).with_errno(Errno::NOSPC));
    }
    Ok(range)
}

/// A DMA_UNMAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaUnmap {
    /// Exactly one earlier map.
    Range(IovaRange),
    /// Every map.
    All,
}

impl DmaUnmap {
    /// Reads a request.
    ///
    /// # Errors
    /// Anything in it does not hold together.
    pub fn decode_request(body: &[u8]) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (address, size) = (reader.u64()?, reader.u64()?);
        if argsz < UNMAP_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        match (flags, address, size) {
            (0, _, _) => IovaRange::new(Iova(address), size)
                .map(Self::Range)
                .map_err(|_| BadField::invalid("size", size)),
            (UNMAP_ALL, 0, 0) => Ok(Self::All),
            (UNMAP_ALL, 0, _) => Err(BadField::invalid("size", size)),
            (UNMAP_ALL, _, _) => Err(BadField::invalid("address", address)),
            _ => Err(BadField::invalid("flags", flags)),
        }
    }

    /// Appends the request or its reply, which are the same bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (flags, address, size) = match self {
            Self::Range(range) => (0, range.start().0, range.len()),
            Self::All => (UNMAP_ALL, 0, 0),
        };
        out.put_u32(UNMAP_BYTES);
        out.put_u32(flags);
        out.put_u64(address);
        out.put_u64(size);
    }

    /// Reads a server's answer and holds it against what was asked.
    ///
    /// # Errors
    /// It is short or about other addresses.
    pub fn check_reply(&self, body: &[u8]) -> Result<(), BadField> {
        let mut reader = Reader::new(body);
        let (_argsz, _flags) = (reader.u32()?, reader.u32()?);
        let (address, size) = (reader.u64()?, reader.u64()?);
        let (wanted_address, wanted_size) = match self {
            Self::Range(range) => (range.start().0, range.len()),
            Self::All => (0, 0),
        };
        if address != wanted_address {
            return Err(BadField::invalid("address", address));
        }
        if size != wanted_size {
            return Err(BadField::invalid("size", size));
        }
        Ok(())
    }
}
