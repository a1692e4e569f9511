//! How a software device reads and writes client memory.
//!
//! Memory that came with an fd stays mapped while the DMA map lives and is copied through `VolatileSlice`: never
//! a reference, every byte copied once, because the client writes it at any time. Memory without an fd is reached
//! by messages. A range that the client did not map, or not for this kind of access, is refused, and then nothing
//! at all is transferred (conformance M43); one access may cross from one map into its neighbour (M44).

use protocol::{DmaMap, DmaMapFlags, Errno, Iova, IovaRange};
use vm_memory::Bytes;

use crate::backend::MessageDma;
use crate::dma::mapping::Mapping;
use crate::dma::table::DmaTable;

/// The client memory that a software device may touch.
#[derive(Debug)]
pub struct SharedDma {
    table: DmaTable<Entry>,
}

#[derive(Debug)]
struct Entry {
    flags: DmaMapFlags,
    mapping: Option<Mapping>,
}

impl SharedDma {
    /// No memory, and room for `max_ranges` maps.
    pub fn new(max_ranges: usize) -> SharedDma {
        SharedDma {
            table: DmaTable::new(max_ranges),
        }
    }

    /// Maps the memory of `map` for as long as it stays in the table.
    pub fn map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.table
            .check_insert(map.range)
            .map_err(|error| error.errno())?;
        let mapping = match &map.fd {
            Some(fd) => {
                let writable = map.flags.contains(DmaMapFlags::WRITE);
                Some(Mapping::new(
                    std::os::fd::AsFd::as_fd(fd),
                    map.file_offset,
                    map.range,
                    writable,
                )?)
            }
            None => None,
        };
        self.table
            .insert(
                map.range,
                Entry {
                    flags: map.flags,
                    mapping,
                },
            )
            .map_err(|error| error.errno())
    }

    /// Lets the device reach a range by messages, whatever the client offered.
    pub fn map_by_messages(&mut self, range: IovaRange, flags: DmaMapFlags) -> Result<(), Errno> {
        self.table
            .insert(
                range,
                Entry {
                    flags,
                    mapping: None,
                },
            )
            .map_err(|error| error.errno())
    }

    /// Unmaps exactly this range.
    pub fn unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.table
            .remove(range)
            .map(drop)
            .map_err(|error| error.errno())
    }

    /// Unmaps everything.
    pub fn clear(&mut self) {
        self.table.clear();
    }

    /// Copies client memory at `iova` into `data`.
    pub fn read(
        &self,
        iova: Iova,
        data: &mut [u8],
        messages: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.check(iova, data.len(), DmaMapFlags::READ)?;
        let mut address = iova;
        let mut rest = data;
        while !rest.is_empty() {
            let piece = self.piece(address, rest.len())?;
            let (now, later) = rest.split_at_mut_checked(piece.len).ok_or(Errno::FAULT)?;
            match &piece.entry.mapping {
                Some(mapping) => {
                    mapping
                        .volatile()
                        .read_slice(now, piece.offset)
                        .map_err(|_| Errno::FAULT)?;
                }
                None => messages.read(address, now)?,
            }
            address = piece.next;
            rest = later;
        }
        Ok(())
    }

    /// Copies `data` to client memory at `iova`.
    pub fn write(
        &self,
        iova: Iova,
        data: &[u8],
        messages: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.check(iova, data.len(), DmaMapFlags::WRITE)?;
        let mut address = iova;
        let mut rest = data;
        while !rest.is_empty() {
            let piece = self.piece(address, rest.len())?;
            let (now, later) = rest.split_at_checked(piece.len).ok_or(Errno::FAULT)?;
            match &piece.entry.mapping {
                Some(mapping) => {
                    mapping
                        .volatile()
                        .write_slice(now, piece.offset)
                        .map_err(|_| Errno::FAULT)?;
                }
                None => messages.write(address, now)?,
            }
            address = piece.next;
            rest = later;
        }
        Ok(())
    }

    /// Whether every byte of the access lies in a map that allows it. The number of maps bounds the work.
    pub fn check(&self, iova: Iova, len: usize, needed: DmaMapFlags) -> Result<(), Errno> {
        let mut address = iova;
        let mut left = len;
        while left > 0 {
            let piece = self.piece(address, left)?;
            if !piece.entry.flags.contains(needed) {
                return Err(Errno::PERM);
            }
            address = piece.next;
            left = left.saturating_sub(piece.len);
        }
        Ok(())
    }

    /// The part of an access of `len` bytes at `address` that lies in one map: at least one byte.
    fn piece(&self, address: Iova, len: usize) -> Result<Piece<'_>, Errno> {
        let (range, entry) = self.table.find(address).ok_or(Errno::FAULT)?;
        let offset = address.0.checked_sub(range.start().0).ok_or(Errno::FAULT)?;
        let available = range.len().checked_sub(offset).ok_or(Errno::FAULT)?;
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(len);
        let advance = u64::try_from(len).map_err(|_| Errno::FAULT)?;
        // Wraps to 0 only after the last byte of the address space; a further byte is then found unmapped or not
        // asked for.
        let next = Iova(address.0.wrapping_add(advance));
        let offset = usize::try_from(offset).map_err(|_| Errno::FAULT)?;
        Ok(Piece {
            entry,
            offset,
            len,
            next,
        })
    }
}

struct Piece<'a> {
    entry: &'a Entry,
    offset: usize,
    len: usize,
    next: Iova,
}

#[cfg(test)]
mod tests;
