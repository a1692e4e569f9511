//! DEVICE_GET_REGION_IO_FDS: eventfds that KVM can signal instead of sending a message for a register write.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_REGION_IO_FDS": argsz u32, flags u32, index u32, count u32, then entries:
//! offset u64, size u64, fd_index u32, type u32, flags u32, padding u32, datamatch u64 = 40 bytes. libvfio-user sends
//! 48 bytes with the datamatch at 40; the length of an entry is (argsz - 16) / count.
//! A server sends entries and descriptors only when `argsz` has room for all; a client asks twice, if there are any.
//! Limits: `MAX_IO_FDS`, `MAX_IO_FDS_ARGSZ`; an entry lies inside its region, a `fd_index` names a descriptor.

use crate::codec::{Put, Reader};
use crate::ids::RegionIndex;
use crate::limits;
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;

/// Bytes of the fixed part.
pub const HEAD_BYTES: u32 = 16;
const ENTRY_BYTES: u32 = 40;
const ENTRY_BYTES_LIBVFIO_USER: u32 = 48;
const FD_INDEX_NONE: u32 = u32::MAX;

/// A DEVICE_GET_REGION_IO_FDS request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFdsRequest {
    /// Which region; may be beyond the device's.
    pub index: RegionIndex,
    /// Largest reply payload that the client takes.
    pub argsz: u32,
}

/// What signals what. An entry whose type is not known is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFdKind {
    /// An eventfd that is signalled by a write.
    IoEventFd {
        /// Only a write of this value counts; meant when the flags say so.
        datamatch: u64,
    },
    /// A file that takes the accesses themselves. Never merged into Linux.
    IoRegionFd {
        /// Passed along with each access.
        user_data: u64,
    },
}

/// One part of a region and its file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFd {
    /// First byte inside the region.
    pub offset: u64,
    /// Width of the write that counts; 0 for any.
    pub size: u64,
    /// Which descriptor of the message; several entries can share one.
    pub fd_index: u32,
    /// Flags of KVM_IOEVENTFD.
    pub flags: u32,
    /// What it is.
    pub kind: IoFdKind,
}

/// What a server says of the file descriptors of a region.
#[derive(Debug)]
pub struct IoFds<F = ReceivedFd> {
    /// The parts.
    pub entries: Vec<IoFd>,
    /// The descriptors that `fd_index` counts.
    pub fds: Vec<F>,
}

impl<F> Default for IoFds<F> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            fds: Vec::new(),
        }
    }
}

impl IoFd {
    /// In `flags`: only writes of the value in `datamatch` count (KVM_IOEVENTFD_FLAG_DATAMATCH).
    pub const DATAMATCH: u32 = 1;
}

impl IoFdsRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The payload is short, `argsz` is out of range, or `flags` or `count` is not 0.
    pub fn decode(body: &[u8]) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (index, count) = (reader.u32()?, reader.u32()?);
        if !(HEAD_BYTES..=limits::MAX_IO_FDS_ARGSZ).contains(&argsz) {
            return Err(BadField::invalid("argsz", argsz));
        }
        if flags != 0 {
            return Err(BadField::invalid("flags", flags));
        }
        if count != 0 {
            return Err(BadField::invalid("count", count));
        }
        Ok(Self {
            index: RegionIndex(index),
            argsz,
        })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz);
        out.put_u32(0);
        out.put_u32(self.index.0);
        out.put_u32(0);
    }
}

fn full_bytes(entries: usize) -> u32 {
    u32::try_from(entries)
        .unwrap_or(u32::MAX)
        .saturating_mul(ENTRY_BYTES)
        .saturating_add(HEAD_BYTES)
}

/// Does the whole answer fit what the client has room for? Only then are descriptors sent.
#[must_use]
pub fn fits(entries: &[IoFd], argsz: u32) -> bool {
    full_bytes(entries.len()) <= argsz
}

/// Appends an answer: whole when it fits `argsz`, otherwise the fixed part with the size of the whole.
pub fn encode_reply(index: RegionIndex, entries: &[IoFd], argsz: u32, out: &mut Vec<u8>) {
    out.put_u32(full_bytes(entries.len()));
    out.put_u32(0);
    out.put_u32(index.0);
    out.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    if !fits(entries, argsz) {
        return;
    }
    for entry in entries {
        let (kind, data) = match entry.kind {
            IoFdKind::IoEventFd { datamatch } => (0, datamatch),
            IoFdKind::IoRegionFd { user_data } => (1, user_data),
        };
        out.put_u64(entry.offset);
        out.put_u64(entry.size);
        out.put_u32(entry.fd_index);
        out.put_u32(kind);
        out.put_u32(entry.flags);
        out.put_u32(0);
        out.put_u64(data);
    }
}

/// What the fixed part of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFdsHead {
    /// Bytes of the whole answer, within limits.
    pub argsz: u32,
    count: u32,
}

impl IoFdsHead {
    /// Reads the fixed part of an answer about `index`.
    ///
    /// # Errors
    /// It is short, about another region, or its sizes do not hold together.
    pub fn decode(body: &[u8], index: RegionIndex) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, _flags) = (reader.u32()?, reader.u32()?);
        let (answered, count) = (reader.u32()?, reader.u32()?);
        if answered != index.0 {
            return Err(BadField::invalid("index", answered));
        }
        if count > limits::MAX_IO_FDS {
            return Err(BadField::invalid("count", count));
        }
        let head = Self { argsz, count };
        head.entry_bytes()?;
        Ok(head)
    }

    /// Bytes of an entry as the peer has them; 0 without entries.
    fn entry_bytes(&self) -> Result<u32, BadField> {
        let bad = BadField::invalid("argsz", self.argsz);
        let entries = self.argsz.checked_sub(HEAD_BYTES).ok_or(bad)?;
        match entries.checked_div(self.count) {
            None if entries == 0 => Ok(0),
            Some(bytes @ (ENTRY_BYTES | ENTRY_BYTES_LIBVFIO_USER))
                if bytes.checked_mul(self.count) == Some(entries) =>
            {
                Ok(bytes)
            }
            None | Some(_) => Err(bad),
        }
    }
}

impl IoFds {
    /// Reads a whole answer about a region of `region_size` bytes.
    ///
    /// # Errors
    /// An entry lies outside the region, names no descriptor, or is of an unknown type.
    pub fn decode(
        body: &[u8],
        index: RegionIndex,
        region_size: u64,
        fds: Vec<ReceivedFd>,
    ) -> Result<Self, BadField> {
        let head = IoFdsHead::decode(body, index)?;
        let entry_bytes = head.entry_bytes()?;
        let mut reader = Reader::new(body);
        reader.bytes(HEAD_BYTES as usize)?;
        let mut entries = Vec::new();
        for _ in 0..head.count {
            let entry = decode_entry(&mut reader, entry_bytes)?;
            let end = entry.offset.checked_add(entry.size.max(1));
            if ![0, 1, 2, 4, 8].contains(&entry.size) {
                return Err(BadField::invalid("size of an entry", entry.size));
            }
            if end.is_none_or(|end| end > region_size) {
                return Err(BadField::invalid("offset of an entry", entry.offset));
            }
            if usize::try_from(entry.fd_index).is_ok_and(|index| index >= fds.len()) {
                return Err(BadField::invalid("fd_index", entry.fd_index));
            }
            entries.push(entry);
        }
        Ok(Self { entries, fds })
    }
}

fn decode_entry(reader: &mut Reader<'_>, entry_bytes: u32) -> Result<IoFd, BadField> {
    let (offset, size) = (reader.u64()?, reader.u64()?);
    let (fd_index, kind) = (reader.u32()?, reader.u32()?);
    let (flags, _padding) = (reader.u32()?, reader.u32()?);
    if entry_bytes == ENTRY_BYTES_LIBVFIO_USER {
        let _shadow_offset = reader.u64()?;
    }
    let data = reader.u64()?;
    if fd_index == FD_INDEX_NONE {
        return Err(BadField::invalid("fd_index", fd_index));
    }
    let kind = match kind {
        0 => IoFdKind::IoEventFd { datamatch: data },
        1 => IoFdKind::IoRegionFd { user_data: data },
        other => return Err(BadField::invalid("type of an entry", other)),
    };
    Ok(IoFd {
        offset,
        size,
        fd_index,
        flags,
        kind,
    })
}
