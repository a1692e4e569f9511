//! IOMMU mappings through VFIO's type1v2 container.
//!
//! For each map: mmap, VFIO_IOMMU_MAP_DMA, munmap. The kernel pins the pages and keeps the mapping, so that nothing of
//! guest RAM stays mapped in this process (kernel-vfio-facts.md 2.1 and 10).

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use protocol::{DmaMap, DmaMapFlags, Errno, IovaRange};
use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE};

use super::dma::{Explained, Iommu, unmapped};
use super::ioctls;
use crate::dma::mapping::Mapping;

/// The container of an open group.
#[derive(Debug)]
pub(super) struct Type1 {
    container: OwnedFd,
    explained: Explained,
}

impl Type1 {
    /// Maps in this container.
    pub(super) fn new(container: OwnedFd) -> Type1 {
        Type1 {
            container,
            explained: Explained::default(),
        }
    }

    /// The number of the container's descriptor.
    pub(super) fn number(&self) -> RawFd {
        self.container.as_raw_fd()
    }
}

impl Iommu for Type1 {
    fn map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        let fd = map.fd.as_ref().ok_or(Errno::INVAL)?;
        let writable = map.flags.contains(DmaMapFlags::WRITE);
        let mut flags = if writable { VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
        if map.flags.contains(DmaMapFlags::READ) {
            flags |= VFIO_DMA_MAP_FLAG_READ;
        }
        let mapping = Mapping::new(fd.as_fd(), map.file_offset, map.range, writable)?;
        ioctls::map_dma(self.container.as_fd(), &mapping, map.range, flags)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .inspect_err(|errno| self.explained.map_failed(*errno, map.range))
    }

    fn unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        unmapped(range, ioctls::unmap_dma(self.container.as_fd(), range))
    }
}
