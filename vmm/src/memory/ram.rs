//! Guest RAM: one sealed memfd, mapped once.
//!
//! The file can neither shrink nor grow nor lose its seals (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL), so that a device
//! server that maps it can rely on its size. Huge pages come from the same call (MFD_HUGETLB) and are reserved at once:
//! a guest never dies later because the pool is empty. For other memory see `huge_pages.rs`.
//!
//! Not here: `-mem-path` opens no file. It says which page size to take (see `config/memory.rs`), as a file on
//! hugetlbfs cannot be sealed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

use super::huge_pages;
use super::layout::RamRegion;
use crate::config::{HugetlbConfig, MemoryConfig};

#[cfg(test)]
mod tests;

/// What `st_blocks` counts (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// The RAM of one guest.
#[derive(Debug)]
pub struct GuestRam {
    file: OwnedFd,
    regions: Vec<RamRegion>,
    memory: GuestMemoryMmap,
    in_hugetlb: bool,
}

/// Guest RAM cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// More than the machine has.
    #[error(
        "Allocate {wanted_mib} MiB of guest memory: the host has {host_mib} MiB of memory and swap; give less with -m"
    )]
    TooMuch {
        /// What was asked for, in MiB.
        wanted_mib: u64,
        /// What there is, in MiB.
        host_mib: u64,
    },
    /// The pool of huge pages is too small.
    #[error(
        "Reserve {wanted_mib} MiB of guest memory in huge pages of {page_kib} KiB: not enough free; raise \
         /sys/kernel/mm/hugepages/hugepages-{page_kib}kB/nr_hugepages"
    )]
    HugePages {
        /// What was asked for, in MiB.
        wanted_mib: u64,
        /// Page size in KiB.
        page_kib: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused one of the steps.
    #[error("{step} for {wanted_mib} MiB of guest memory")]
    System {
        /// What was tried.
        step: &'static str,
        /// What was asked for, in MiB.
        wanted_mib: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl GuestRam {
    /// Makes the memory for `regions` (from [`super::layout::place`]).
    pub fn new(config: &MemoryConfig, regions: Vec<RamRegion>) -> Result<GuestRam, RamError> {
        refuse_more_than_the_host_has(config.size_bytes)?;
        let file = sealed_memfd(config)?;
        let memory = map(config, &file, &regions)?;
        let ram = GuestRam {
            file,
            regions,
            memory,
            in_hugetlb: config.hugetlb.is_some(),
        };
        if config.prealloc {
            ram.take_huge_pages();
            rustix::fs::fallocate(&ram.file, FallocateFlags::empty(), 0, config.size_bytes)
                .map_err(|errno| failed(config, "Fill pages (-mem-prealloc)", errno.into()))?;
        }
        Ok(ram)
    }

    /// Where in the guest and in the file the memory is.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// Makes all of it pages of 2 MiB, before a device server pins it. What the host cannot give stays as it is.
    pub fn take_huge_pages(&self) {
        if self.in_hugetlb {
            return;
        }
        for region in self.memory.iter() {
            if let Err(error) = huge_pages::collapse(region) {
                tracing::debug!(%error, "not all guest memory is in huge pages");
            }
        }
    }

    /// Whether the host has given memory for all of it. What it has swapped out counts.
    pub fn is_all_there(&self) -> bool {
        let size_bytes: u64 = self.regions.iter().map(|region| region.len).sum();
        rustix::fs::fstat(&self.file).is_ok_and(|stat| {
            let there = u64::try_from(stat.st_blocks).map(|blocks| blocks * BLOCK_BYTES);
            there.is_ok_and(|there| there >= size_bytes)
        })
    }

    /// The sealed file, to be sent to device servers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The memory as the VMM reads and writes it.
    pub fn guest_memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }
}

/// Memory of a memfd is not accounted before it is used: without this check a guest that cannot fit would start and
/// take the host's memory until something is killed.
fn refuse_more_than_the_host_has(size_bytes: u64) -> Result<(), RamError> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit);
    let host = (info.totalram + info.totalswap).saturating_mul(unit);
    if size_bytes > host {
        return Err(RamError::TooMuch {
            wanted_mib: size_bytes >> 20,
            host_mib: host >> 20,
        });
    }
    Ok(())
}

fn sealed_memfd(config: &MemoryConfig) -> Result<OwnedFd, RamError> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Some(huge) = &config.hugetlb {
        // The page size is coded as its power of two (memfd_create(2), MFD_HUGE_SHIFT).
        flags |=
            MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(huge.page_size_bytes.ilog2() << 26);
    }
    let file = rustix::fs::memfd_create("guest-ram", flags)
        .map_err(|errno| failed(config, "Create a memory file", errno.into()))?;
    rustix::fs::ftruncate(&file, config.size_bytes)
        .map_err(|errno| failed(config, "Size a memory file", errno.into()))?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|errno| failed(config, "Seal a memory file", errno.into()))?;
    Ok(file)
}

fn map(
    config: &MemoryConfig,
    file: &OwnedFd,
    regions: &[RamRegion],
) -> Result<GuestMemoryMmap, RamError> {
    let step = "Map memory";
    let mut mapped = Vec::new();
    for region in regions {
        let file = file
            .try_clone()
            .map_err(|error| failed(config, step, error))?;
        let file = FileOffset::new(File::from(file), region.file_offset);
        let len = usize::try_from(region.len)
            .map_err(|_| failed(config, step, io::ErrorKind::OutOfMemory.into()))?;
        let mapping = if let Some(huge) = &config.hugetlb {
            map_hugetlb(file, len).map_err(|source| no_huge_pages(config, huge, source))?
        } else {
            let mapping =
                huge_pages::map(file, len).map_err(|source| failed(config, step, source))?;
            huge_pages::prefer(&mapping);
            mapping
        };
        let placed = GuestRegionMmap::new(mapping, GuestAddress(region.gpa))
            .ok_or_else(|| failed(config, step, io::ErrorKind::InvalidInput.into()))?;
        mapped.push(placed);
    }
    GuestMemoryMmap::from_regions(mapped)
        .map_err(|error| failed(config, step, io::Error::other(error)))
}

/// Pages of the pool are reserved by the mapping.
fn map_hugetlb(file: FileOffset, len: usize) -> io::Result<MmapRegion> {
    let mapped = MmapRegionBuilder::new(len)
        .with_file_offset(file)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED)
        .build();
    mapped.map_err(io::Error::other)
}

fn no_huge_pages(config: &MemoryConfig, huge: &HugetlbConfig, source: io::Error) -> RamError {
    RamError::HugePages {
        wanted_mib: config.size_bytes >> 20,
        page_kib: huge.page_size_bytes >> 10,
        source,
    }
}

fn failed(config: &MemoryConfig, step: &'static str, source: io::Error) -> RamError {
    RamError::System {
        step,
        wanted_mib: config.size_bytes >> 20,
        source,
    }
}
