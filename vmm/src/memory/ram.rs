//! Guest RAM: one sealed memfd, mapped once.
//!
//! The file can neither shrink nor grow nor lose its seals (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL), so that a device
//! server that maps it can rely on its size. Huge pages come from the same call (MFD_HUGETLB) and are reserved at once:
//! a guest never dies later because the pool is empty. Other memory takes transparent huge pages where the host
//! allows them for shared memory (/sys/kernel/mm/transparent_hugepage/shmem_enabled: advise or always).
//!
//! Not here: `-mem-path` opens no file. It says which page size to take (see `config/memory.rs`), as a file on
//! hugetlbfs cannot be sealed.

// UNSAFETY: madvise takes an address.
#![expect(unsafe_code, reason = "advice about the own mapping, see above")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::Advice;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::layout::RamRegion;
use crate::config::MemoryConfig;

#[cfg(test)]
mod tests;

/// The RAM of one guest.
#[derive(Debug)]
pub struct GuestRam {
    file: OwnedFd,
    regions: Vec<RamRegion>,
    memory: GuestMemoryMmap,
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
        if config.prealloc {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, config.size_bytes)
                .map_err(|errno| failed(config, "Fill pages (-mem-prealloc)", errno.into()))?;
        }
        Ok(GuestRam {
            file,
            regions,
            memory,
        })
    }

    /// Where in the guest and in the file the memory is.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
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
    // Huge pages are reserved by the mapping, unless it says not to.
    let reserve = if config.hugetlb.is_some() {
        0
    } else {
        libc::MAP_NORESERVE
    };
    let mut mapped = Vec::new();
    for region in regions {
        let file = file
            .try_clone()
            .map_err(|error| failed(config, step, error))?;
        let len = usize::try_from(region.len)
            .map_err(|_| failed(config, step, io::ErrorKind::OutOfMemory.into()))?;
        let mapping = MmapRegionBuilder::new(len)
            .with_file_offset(FileOffset::new(File::from(file), region.file_offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .build()
            .map_err(|error| map_failed(config, error))?;
        if config.hugetlb.is_none() {
            prefer_huge_pages(&mapping);
        }
        let placed = GuestRegionMmap::new(mapping, GuestAddress(region.gpa))
            .ok_or_else(|| failed(config, step, io::ErrorKind::InvalidInput.into()))?;
        mapped.push(placed);
    }
    GuestMemoryMmap::from_regions(mapped)
        .map_err(|error| failed(config, step, io::Error::other(error)))
}

fn prefer_huge_pages(mapping: &MmapRegion) {
    // SAFETY: madvise's contract for MADV_HUGEPAGE, which changes no content:
    // - the range is one mapping: address and length are both the region's own;
    // - it stays mapped during the call: `mapping` is borrowed.
    let advised = unsafe {
        rustix::mm::madvise(
            mapping.as_ptr().cast(),
            mapping.size(),
            Advice::LinuxHugepage,
        )
    };
    if let Err(errno) = advised {
        // A kernel without transparent huge pages: the guest runs, only slower.
        tracing::debug!(%errno, "no transparent huge pages for guest memory");
    }
}

fn map_failed(config: &MemoryConfig, error: vm_memory::mmap::MmapRegionError) -> RamError {
    let source = io::Error::other(error);
    match &config.hugetlb {
        Some(huge) => RamError::HugePages {
            wanted_mib: config.size_bytes >> 20,
            page_kib: huge.page_size_bytes >> 10,
            source,
        },
        None => failed(config, "Map memory", source),
    }
}

fn failed(config: &MemoryConfig, step: &'static str, source: io::Error) -> RamError {
    RamError::System {
        step,
        wanted_mib: config.size_bytes >> 20,
        source,
    }
}
