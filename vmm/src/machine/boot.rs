//! How a kernel gets into memory and what the first vCPU begins with.
//!
//! There is no firmware. A bzImage is entered at its 64-bit entry (Linux x86 boot protocol 2.12 and later), an ELF file
//! at its PVH entry. The same steps run again at every guest reset, from what the files hold then: they are mapped at
//! start (`memory/boot_file.rs`), since a process in its jail opens no file, and no copy of them stays in memory.
//!
//! | Guest address | What |
//! |---|---|
//! | `0x500` | segment descriptors |
//! | `0x6000` | PVH start info, memory map, module list |
//! | `0x7000` | zero page |
//! | `0x9000` to `0xf000` | page tables: the first 4 GiB, one to one |
//! | `0x2_0000` | command line |
//! | `0xe_0000` | ACPI tables, RSDP first |
//! | `0x10_0000` and up | kernel |
//! | end of RAM below 4 GiB | initrd |

mod bzimage;
mod elf;
mod memory_map;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Cursor};
use std::os::fd::{AsFd, OwnedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::acpi;
use crate::kvm::CpuState;
use crate::memory::boot_file::BootFile;
use crate::memory::layout::RamRegion;

const GDT: u64 = 0x500;
const PVH_START_INFO: u64 = 0x6000;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Where kernels begin: above everything that a PC keeps below 1 MiB.
const HIGH_MEMORY: u64 = 0x10_0000;
const PAGE: u64 = 4096;

/// A kernel and its initrd.
#[derive(Debug)]
pub struct Images {
    kernel: BootFile,
    initrd: Option<BootFile>,
}

/// The files and texts that a machine boots from, at each reset.
#[derive(Debug)]
pub struct BootFiles {
    images: Images,
    append: String,
    acpi: Vec<u8>,
}

/// A kernel as it is read.
type Image<'a> = Cursor<&'a [u8]>;

/// A kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Not a kernel.
    #[error(
        "Boot the kernel: the file is neither a bzImage nor a 64-bit ELF kernel; give -kernel a file such as /boot/vmlinuz-VERSION"
    )]
    NotAKernel,
    /// The file ends too early.
    #[error(
        "Boot the kernel: the file is truncated: it has {has} bytes and its header says {needs}; copy or download it again"
    )]
    Truncated {
        /// What is there.
        has: u64,
        /// What should be there.
        needs: u64,
    },
    /// A kernel that this machine cannot enter.
    #[error("Boot the kernel: {0}")]
    Unsupported(&'static str),
    /// Reading failed.
    #[error("Read the {what}")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A guest resets, and the file is not what it was.
    #[error(
        "Read the {what}: the file is shorter than at the start of this VM; start the VM again, and replace such files by renaming, not in place"
    )]
    Shorter {
        /// Kernel or initrd.
        what: &'static str,
    },
    /// The loader found something wrong.
    #[error("Load the kernel")]
    Load(#[source] linux_loader::loader::Error),
    /// Kernel and initrd are larger than memory.
    #[error(
        "Boot the kernel: {what} needs {needs_mib} MiB, and {has_mib} MiB are left for it; give more memory with -m"
    )]
    NoRoom {
        /// Kernel or initrd.
        what: &'static str,
        /// What it needs.
        needs_mib: u64,
        /// What there is.
        has_mib: u64,
    },
    /// The command line is longer than this kernel takes.
    #[error("Boot the kernel: -append has {has} bytes, this kernel takes {limit}")]
    CommandLine {
        /// What was given.
        has: usize,
        /// What it takes.
        limit: usize,
    },
    /// Guest memory cannot be written.
    #[error("Write boot data to guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A kernel in memory.
struct Loaded {
    /// First byte that it does not need while it starts.
    end: u64,
    /// Highest address that its initrd may end at.
    initrd_limit: u64,
    kind: Kind,
}

enum Kind {
    BzImage(Box<linux_loader::loader::bootparam::setup_header>),
    Pvh { entry: u64 },
}

/// Where the initrd is; no length if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Initrd {
    start: u64,
    len: u64,
}

impl Images {
    /// Maps both files. `ram_bytes`: what the guest has, of which neither can need more.
    pub fn map(
        kernel: OwnedFd,
        initrd: Option<OwnedFd>,
        ram_bytes: u64,
    ) -> Result<Images, BootError> {
        let initrd = initrd.map(|file| map_whole("initrd", "the initrd", file, ram_bytes));
        Ok(Images {
            kernel: map_whole("kernel", "the kernel", kernel, ram_bytes)?,
            initrd: initrd.transpose()?,
        })
    }
}

fn map_whole(
    name: &'static str,
    what: &'static str,
    file: OwnedFd,
    ram_bytes: u64,
) -> Result<BootFile, BootError> {
    let failed = |source| BootError::Read { what: name, source };
    let file = File::from(file);
    let len = file.metadata().map_err(failed)?.len();
    if len > ram_bytes {
        return Err(BootError::NoRoom {
            what,
            needs_mib: mib(len),
            has_mib: ram_bytes >> 20,
        });
    }
    let len = usize::try_from(len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
    BootFile::map(file.as_fd(), len).map_err(failed)
}

/// What a boot file holds now, for as long as it is loaded.
fn read(what: &'static str, file: &BootFile) -> Result<Vec<u8>, BootError> {
    let read = file.copy();
    read.map_err(|source| match source.raw_os_error() {
        Some(libc::EFAULT) => BootError::Shorter { what },
        _ => BootError::Read { what, source },
    })
}

impl BootFiles {
    /// Takes kernel and initrd, the command line and the ACPI tables (`acpi::tables`).
    pub fn new(images: Images, append: String, acpi: Vec<u8>) -> BootFiles {
        BootFiles {
            images,
            append,
            acpi,
        }
    }

    /// Writes everything into guest memory and says where the first vCPU begins.
    pub fn load(&self, memory: &GuestMemoryMmap, ram: &[RamRegion]) -> Result<CpuState, BootError> {
        let low_end = ram
            .iter()
            .map(|region| region.gpa + region.len)
            .find(|end| *end <= 1 << 32)
            .unwrap_or(0);
        let loaded = self.load_kernel(memory, low_end)?;
        let initrd = self.load_initrd(memory, &loaded, low_end)?;
        let mut command_line = self.append.clone().into_bytes();
        command_line.push(0);
        memory.write_slice(&command_line, GuestAddress(COMMAND_LINE))?;
        memory.write_slice(&self.acpi, GuestAddress(acpi::TABLES_START))?;
        match loaded.kind {
            Kind::BzImage(header) => bzimage::enter(*header, memory, ram, initrd),
            Kind::Pvh { entry } => elf::enter(entry, memory, ram, initrd),
        }
    }

    fn load_kernel(&self, memory: &GuestMemoryMmap, low_end: u64) -> Result<Loaded, BootError> {
        let bytes = read("kernel", &self.images.kernel)?;
        let mut kernel = Cursor::new(bytes.as_slice());
        if bytes.starts_with(b"\x7fELF") {
            elf::load(&mut kernel, memory, low_end)
        } else {
            bzimage::load(&mut kernel, memory, low_end, self.append.len())
        }
    }

    /// At the end of RAM below 4 GiB, or lower if the kernel says so.
    fn load_initrd(
        &self,
        memory: &GuestMemoryMmap,
        loaded: &Loaded,
        low_end: u64,
    ) -> Result<Initrd, BootError> {
        let Some(file) = &self.images.initrd else {
            return Ok(Initrd::default());
        };
        let image = read("initrd", file)?;
        let len = image.len() as u64;
        let limit = low_end.min(loaded.initrd_limit.saturating_add(1));
        let room = limit.saturating_sub(loaded.end);
        let start = limit
            .checked_sub(len.next_multiple_of(PAGE))
            .map(|start| start - start % PAGE);
        let Some(start) = start.filter(|start| *start >= loaded.end) else {
            return Err(BootError::NoRoom {
                what: "the initrd",
                needs_mib: mib(len),
                has_mib: room >> 20,
            });
        };
        memory.write_slice(&image, GuestAddress(start))?;
        Ok(Initrd { start, len })
    }
}

/// Fills `data` from `offset` of a kernel; one that ends before is none.
fn read_at(image: &[u8], offset: u64, data: &mut [u8]) -> Result<(), BootError> {
    let start = usize::try_from(offset).map_err(|_| BootError::NotAKernel)?;
    let from = image.get(start..).and_then(|rest| rest.get(..data.len()));
    data.copy_from_slice(from.ok_or(BootError::NotAKernel)?);
    Ok(())
}

/// Rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
