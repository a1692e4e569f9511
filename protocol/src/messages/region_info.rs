//! DEVICE_GET_REGION_INFO: size and rights of a region, and which of its areas can be mapped.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_REGION_INFO": argsz u32, flags u32, index u32, cap_offset u32, size u64,
//! offset u64 = 32 bytes, then capabilities (id u16, version u16, next u32). Sparse mmap is id 1: nr_areas u32,
//! reserved u32, then offset u64 and size u64 per area. One file descriptor serves all areas.
//! A server sends capabilities and fd only when `argsz` has room for all; a client asks twice.
//! Limits: `MAX_REGION_INFO_BYTES`, `MAX_REGION_CAPABILITIES`, `MAX_SPARSE_AREAS`, `MAX_BAR_BYTES`; the chain of
//! capabilities must strictly advance. What kind of file the fd is, is checked where it is mapped.

use crate::codec::{Put, Reader};
use crate::ids::RegionIndex;
use crate::limits;
use crate::messages::region::RegionFlags;
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;

/// Bytes of the fixed part.
pub const HEAD_BYTES: u32 = 32;
const CAP_SPARSE_MMAP: u16 = 1;
const CAP_HEADER_BYTES: u32 = 8;
const SPARSE_HEAD_BYTES: u32 = 16;
const AREA_BYTES: u32 = 16;

/// A part of a region that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseArea {
    /// First byte inside the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What a server says of a region.
#[derive(Debug)]
pub struct RegionInfo {
    /// Which region.
    pub index: RegionIndex,
    /// What can be done with it. CAPS is set by the encoder, not by the user.
    pub flags: RegionFlags,
    /// Bytes; 0 for a region that does not exist.
    pub size: u64,
    /// Where the region starts in the file of `fd`.
    pub offset: u64,
    /// Parts that can be mapped: inside the region, page aligned, in ascending order, without overlap.
    pub areas: Vec<SparseArea>,
    /// The file to map. A server that sets MMAP and sends none leaves only messages.
    pub fd: Option<ReceivedFd>,
}

/// A DEVICE_GET_REGION_INFO request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfoRequest {
    /// Which region; may be beyond the device's.
    pub index: RegionIndex,
    /// Largest reply payload that the client takes; at least 32.
    pub argsz: u32,
}

impl RegionInfoRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The payload or `argsz` is below 32 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, _flags) = (reader.u32()?, reader.u32()?);
        let index = RegionIndex(reader.u32()?);
        reader.bytes(20)?;
        if argsz < HEAD_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        Ok(Self { index, argsz })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz);
        out.put_u32(0);
        out.put_u32(self.index.0);
        out.put_bytes(&[0; 20]);
    }
}

/// What a server answers to [`RegionInfoRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfoReply<'a> {
    /// Which region.
    pub index: RegionIndex,
    /// READ, WRITE, MMAP; CAPS is set when areas are sent.
    pub flags: RegionFlags,
    /// Bytes.
    pub size: u64,
    /// Where the region starts in the file.
    pub offset: u64,
    /// Parts that can be mapped.
    pub areas: &'a [SparseArea],
}

impl RegionInfoReply<'_> {
    /// Bytes of the whole answer.
    fn full_bytes(&self) -> u32 {
        let areas = u32::try_from(self.areas.len()).unwrap_or(u32::MAX);
        match areas {
            0 => HEAD_BYTES,
            some => some
                .saturating_mul(AREA_BYTES)
                .saturating_add(HEAD_BYTES + SPARSE_HEAD_BYTES),
        }
    }

    /// Does the whole answer fit what the client has room for? Only then is the file descriptor sent.
    #[must_use]
    pub fn fits(&self, argsz: u32) -> bool {
        self.full_bytes() <= argsz
    }

    /// Appends the answer: whole when it fits `argsz`, otherwise the fixed part with the size of the whole.
    pub fn encode(&self, argsz: u32, out: &mut Vec<u8>) {
        let with_areas = !self.areas.is_empty() && self.fits(argsz);
        let mut flags = self.flags;
        flags.set(RegionFlags::CAPS, with_areas);
        out.put_u32(self.full_bytes());
        out.put_u32(flags.bits());
        out.put_u32(self.index.0);
        out.put_u32(if with_areas { HEAD_BYTES } else { 0 });
        out.put_u64(self.size);
        out.put_u64(self.offset);
        if with_areas {
            out.put_u16(CAP_SPARSE_MMAP);
            out.put_u16(1);
            out.put_u32(0);
            out.put_u32(u32::try_from(self.areas.len()).unwrap_or(u32::MAX));
            out.put_u32(0);
            for area in self.areas {
                out.put_u64(area.offset);
                out.put_u64(area.size);
            }
        }
    }
}

/// What the fixed part of an answer says, before anything is believed of its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfoHead {
    /// Bytes of the whole answer, within limits.
    pub argsz: u32,
    flags: RegionFlags,
    index: RegionIndex,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

impl RegionInfoHead {
    /// Reads the fixed part of an answer about `index`.
    ///
    /// # Errors
    /// It is short, about another region, or its sizes are absurd.
    pub fn decode(body: &[u8], index: RegionIndex) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (answered, cap_offset) = (reader.u32()?, reader.u32()?);
        let (size, offset) = (reader.u64()?, reader.u64()?);
        if !(HEAD_BYTES..=limits::MAX_REGION_INFO_BYTES).contains(&argsz) {
            return Err(BadField::invalid("argsz", argsz));
        }
        if answered != index.0 {
            return Err(BadField::invalid("index", answered));
        }
        check_size(index, size)?;
        Ok(Self {
            argsz,
            flags: RegionFlags::from_bits_truncate(flags),
            index,
            cap_offset,
            size,
            offset,
        })
    }
}

fn check_size(index: RegionIndex, size: u64) -> Result<(), BadField> {
    let good = match index {
        RegionIndex::CONFIG => size == 256 || size == 4096,
        bar if bar.is_bar() => {
            size == 0 || (size.is_power_of_two() && size <= limits::MAX_BAR_BYTES)
        }
        _ => size <= limits::MAX_BAR_BYTES,
    };
    good.then_some(())
        .ok_or(BadField::invalid("size of the region", size))
}

impl RegionInfo {
    /// Reads a whole answer about `index`. More than one file descriptor is refused; one that nothing asked for is
    /// closed.
    ///
    /// # Errors
    /// Anything in it does not hold together: the chain of capabilities, an area, the number of descriptors.
    pub fn decode(body: &[u8], index: RegionIndex, fds: Vec<ReceivedFd>) -> Result<Self, BadField> {
        let head = RegionInfoHead::decode(body, index)?;
        if fds.len() > 1 {
            return Err(BadField::length("number of file descriptors", fds.len()));
        }
        let fd = fds.into_iter().next();
        let mappable = head.flags.contains(RegionFlags::MMAP);
        let areas = if head.flags.contains(RegionFlags::CAPS) {
            walk_capabilities(body, head.cap_offset)?
        } else {
            None
        };
        let areas = match areas {
            _ if !mappable => Vec::new(),
            Some(areas) => areas,
            None => whole_region(head.size),
        };
        check_areas(&areas, head.size, head.offset)?;
        Ok(Self {
            index: head.index,
            flags: head.flags,
            size: head.size,
            offset: head.offset,
            areas,
            fd: fd.filter(|_| mappable),
        })
    }
}

/// MMAP without a list of areas means all of the region; a part of a page cannot be mapped.
fn whole_region(size: u64) -> Vec<SparseArea> {
    if size == 0 || !size.is_multiple_of(limits::PAGE_BYTES) {
        return Vec::new();
    }
    vec![SparseArea { offset: 0, size }]
}

/// Follows the chain, which must strictly advance, and returns the areas of its sparse mmap capability.
fn walk_capabilities(body: &[u8], first: u32) -> Result<Option<Vec<SparseArea>>, BadField> {
    let mut found = None;
    let mut offset = first;
    let mut behind = HEAD_BYTES;
    for _ in 0..limits::MAX_REGION_CAPABILITIES {
        if offset == 0 {
            return Ok(found);
        }
        if offset < behind || !offset.is_multiple_of(8) {
            return Err(BadField::invalid("cap_offset", offset));
        }
        let capability = usize::try_from(offset)
            .ok()
            .and_then(|start| body.get(start..))
            .ok_or(BadField::invalid("cap_offset", offset))?;
        let mut reader = Reader::new(capability);
        let (id, version, next) = (reader.u16()?, reader.u16()?, reader.u32()?);
        if id == CAP_SPARSE_MMAP {
            if version != 1 || found.is_some() {
                return Err(BadField::invalid("sparse mmap capability", version));
            }
            found = Some(sparse_areas(&mut reader)?);
        }
        behind = offset.saturating_add(CAP_HEADER_BYTES);
        offset = next;
    }
    Err(BadField::invalid("capabilities (too many)", offset))
}

fn sparse_areas(reader: &mut Reader<'_>) -> Result<Vec<SparseArea>, BadField> {
    let (count, _reserved) = (reader.u32()?, reader.u32()?);
    let bad = BadField::invalid("nr_areas", count);
    let count = usize::try_from(count).map_err(|_| bad)?;
    if count > limits::MAX_SPARSE_AREAS {
        return Err(bad);
    }
    let mut areas = Vec::with_capacity(count);
    for _ in 0..count {
        let (offset, size) = (reader.u64()?, reader.u64()?);
        areas.push(SparseArea { offset, size });
    }
    areas.sort_by_key(|area| area.offset);
    Ok(areas)
}

fn check_areas(areas: &[SparseArea], region_size: u64, file_offset: u64) -> Result<(), BadField> {
    let mut free_from = 0;
    for area in areas {
        let aligned = area.offset.is_multiple_of(limits::PAGE_BYTES)
            && area.size.is_multiple_of(limits::PAGE_BYTES);
        if area.size == 0 || !aligned {
            return Err(BadField::invalid("size of a sparse area", area.size));
        }
        let end = area.offset.checked_add(area.size);
        let end = end.filter(|end| area.offset >= free_from && *end <= region_size);
        let Some(end) = end else {
            return Err(BadField::invalid("offset of a sparse area", area.offset));
        };
        let file_end = file_offset.checked_add(end);
        if file_end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(BadField::invalid("offset of the region", file_offset));
        }
        free_from = end;
    }
    let file_aligned = file_offset.is_multiple_of(limits::PAGE_BYTES);
    if !areas.is_empty() && !file_aligned {
        return Err(BadField::invalid("offset of the region", file_offset));
    }
    Ok(())
}
