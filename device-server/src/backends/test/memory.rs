//! The memory of the test device: BAR0, which clients map, and the MSI-X table, which they never do.

use std::os::fd::{AsFd, OwnedFd};

use protocol::{Errno, Iova, IovaRange};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::Bytes;

use crate::backends::test::layout;
use crate::dma::Mapping;

/// BAR0: a memfd of its own, sealed so that no client can change its size.
#[derive(Debug)]
pub(super) struct MappedMemory {
    memfd: OwnedFd,
    mapping: Mapping,
}

impl MappedMemory {
    /// Zeroed memory.
    pub(super) fn new() -> Result<MappedMemory, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("bulkhead-test-bar0", flags)?;
        let size = u64::from(layout::MAPPED_BAR_BYTES);
        rustix::fs::ftruncate(&memfd, size)?;
        rustix::fs::fcntl_add_seals(
            &memfd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        let range = IovaRange::new(Iova(0), size).map_err(|_| Errno::INVAL)?;
        let mapping = Mapping::new(memfd.as_fd(), 0, range, true)?;
        Ok(MappedMemory { memfd, mapping })
    }

    /// A file descriptor of the same memory, for clients.
    pub(super) fn share(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.memfd, 0)
    }

    /// Reads by message what clients may also read through their mapping.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        self.mapping
            .volatile()
            .read_slice(data, offset)
            .map_err(|_| Errno::INVAL)
    }

    /// Writes by message.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        self.mapping
            .volatile()
            .write_slice(data, offset)
            .map_err(|_| Errno::INVAL)
    }

    /// Makes every byte zero, by giving the memory back.
    pub(super) fn clear(&self) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.memfd, flags, 0, layout::MAPPED_BAR_BYTES.into())
    }
}

/// BAR1: the MSI-X table and the pending bits, as plain memory. The pending bits are read-only.
#[derive(Debug)]
pub(super) struct TableMemory {
    bytes: Vec<u8>,
}

impl TableMemory {
    /// Zeroes, with every vector's mask bit set (PCI 3.0 section 6.8.2.9).
    pub(super) fn new() -> TableMemory {
        let mut bytes = vec![0; layout::TABLE_BAR_BYTES as usize];
        let vectors = bytes
            .chunks_exact_mut(16)
            .take(layout::MSIX_VECTORS as usize);
        for entry in vectors {
            if let Some(control) = entry.get_mut(12) {
                *control = 1;
            }
        }
        TableMemory { bytes }
    }

    /// Reads any bytes.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        let end = start.checked_add(data.len()).ok_or(Errno::INVAL)?;
        data.copy_from_slice(self.bytes.get(start..end).ok_or(Errno::INVAL)?);
        Ok(())
    }

    /// Writes any bytes in front of the pending bits; those behind are dropped.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        let table = self
            .bytes
            .iter_mut()
            .take(layout::PBA_OFFSET as usize)
            .skip(start);
        table.zip(data).for_each(|(byte, new)| *byte = *new);
        Ok(())
    }
}
