//! Guest memory as a VMM has it: one sealed memfd, mapped here and given to the device by DMA_MAP.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use device_server::dma::mapping::Mapping;
use protocol::{Client, DmaMapFlags, Iova, IovaRange};
use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::Bytes;

/// Some memory that the device may be given.
#[derive(Debug)]
pub(crate) struct Ram {
    fd: OwnedFd,
    mapping: Mapping,
    range: IovaRange,
}

impl Ram {
    /// Memory for the I/O virtual addresses from `iova` on.
    pub(crate) fn new(iova: u64, len: u64) -> Result<Ram> {
        let fd =
            rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let range = IovaRange::new(Iova(iova), len)
            .ok()
            .context("empty range")?;
        let mapping = Mapping::new(fd.as_fd(), 0, range, true)?;
        Ok(Ram { fd, mapping, range })
    }

    /// DMA_MAP for reading and writing.
    pub(crate) fn map(&self, client: &Client) -> Result<()> {
        self.map_for(client, DmaMapFlags::READ | DmaMapFlags::WRITE)
    }

    /// DMA_MAP.
    pub(crate) fn map_for(&self, client: &Client, flags: DmaMapFlags) -> Result<()> {
        client
            .dma_map(self.range, flags, Some((self.fd.as_fd(), 0)))
            .context("map RAM for DMA")
    }

    /// DMA_UNMAP.
    pub(crate) fn unmap(&self, client: &Client) -> Result<()> {
        client.dma_unmap(self.range).context("unmap RAM from DMA")
    }

    /// Stores `bytes` at `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        Ok(self.mapping.volatile().write_slice(bytes, offset)?)
    }

    /// Reads `len` bytes at `offset`.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.mapping.volatile().read_slice(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Reads a 32-bit value that the device writes.
    pub(crate) fn load(&self, offset: usize) -> Result<u32> {
        Ok(self.mapping.volatile().load(offset, Ordering::Acquire)?)
    }
}
