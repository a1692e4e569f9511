//! Which memory the device may use: all of the guest's RAM, at the guest's addresses.
//!
//! Spec: vfio-user, "VFIO_USER_DMA_MAP", "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE".
//! One map per piece of RAM, each with the RAM file's descriptor. A server that cannot reach memory by descriptor asks
//! by message; [`RamAccess`] answers it.

use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::client::{Client, ClientError, DmaHandler};
use protocol::{DmaMapFlags, Errno, Iova, IovaRange};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::layout::RamRegion;
use crate::memory::ram::GuestRam;

/// RAM cannot be given to the device.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The server takes fewer maps than the guest has pieces of RAM.
    #[error("the server takes {most} DMA maps, guest RAM needs {needed}")]
    TooFew {
        /// What it takes.
        most: u32,
        /// What is needed.
        needed: usize,
    },
    /// The server's pages are larger than the pieces of RAM are aligned.
    #[error(
        "the server maps pages of sizes {pgsizes:#x} only, guest RAM at {gpa:#x} with {len:#x} bytes is not made of such"
    )]
    Pages {
        /// Bits of the sizes that it takes.
        pgsizes: u64,
        /// Where RAM starts.
        gpa: u64,
        /// Its length.
        len: u64,
    },
    /// One piece was refused.
    #[error("let the device use guest RAM at {gpa:#x} with {len:#x} bytes")]
    Map {
        /// Where RAM starts.
        gpa: u64,
        /// Its length.
        len: u64,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
}

/// Gives the device all of RAM. On an error what was mapped is unmapped again.
pub fn map_ram(client: &Client, ram: &GuestRam) -> Result<(), DmaError> {
    let server = client.server_capabilities();
    let (most, needed) = (server.max_dma_maps, ram.regions().len());
    if u32::try_from(needed).is_ok_and(|needed| needed > most) {
        return Err(DmaError::TooFew { most, needed });
    }
    for region in ram.regions() {
        check_pages(server.pgsizes, region)?;
    }
    for (index, region) in ram.regions().iter().enumerate() {
        if let Err(source) = map(client, ram, region) {
            for earlier in ram.regions().iter().take(index) {
                // The connection ends next, which unmaps as well.
                let _unmapped = range(earlier).map(|range| client.dma_unmap(range));
            }
            return Err(DmaError::Map {
                gpa: region.gpa,
                len: region.len,
                source,
            });
        }
    }
    Ok(())
}

fn map(client: &Client, ram: &GuestRam, region: &RamRegion) -> Result<(), ClientError> {
    let Some(range) = range(region) else {
        return Ok(());
    };
    let flags = DmaMapFlags::READ_WRITE;
    client.dma_map(range, flags, Some((ram.fd().as_fd(), region.file_offset)))
}

fn range(region: &RamRegion) -> Option<IovaRange> {
    IovaRange::new(Iova(region.gpa), region.len).ok()
}

fn check_pages(pgsizes: u64, region: &RamRegion) -> Result<(), DmaError> {
    let smallest = pgsizes & pgsizes.wrapping_neg();
    let fits = |number: u64| smallest != 0 && number.is_multiple_of(smallest);
    if fits(region.gpa) && fits(region.len) && fits(region.file_offset) {
        return Ok(());
    }
    Err(DmaError::Pages {
        pgsizes,
        gpa: region.gpa,
        len: region.len,
    })
}

/// Guest RAM for a server that reaches it by message.
#[derive(Debug)]
pub struct RamAccess(pub Arc<GuestRam>);

impl DmaHandler for RamAccess {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        self.0
            .guest_memory()
            .read_slice(data, GuestAddress(address.0))
            .map_err(|_| Errno::FAULT)
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        self.0
            .guest_memory()
            .write_slice(data, GuestAddress(address.0))
            .map_err(|_| Errno::FAULT)
    }
}
