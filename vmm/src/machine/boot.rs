//! How a kernel gets into memory and what the first vCPU begins with.
//!
//! There is no firmware. A bzImage is entered at its 64-bit entry (Linux x86 boot protocol 2.12 and later), an ELF file
//! at its PVH entry. The same steps run again at every guest reset, from what the files hold then: they are mapped at
//! start (`memory/boot_file.rs`), since a process in its jail opens no file, and no copy of them stays in memory. What
//! the supervisor lends later to boot next is mapped in the same way.
//! A kernel that shall boot later is tried at once, in memory that no guest sees: what a reset does then has been done before.
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

use std::fmt::Debug;
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

/// A kernel or an initrd.
#[derive(Debug)]
pub struct Image {
    file: BootFile,
    /// Dropped after the file, for who has to know.
    _kept: Option<Box<dyn Debug + Send + Sync>>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// The kernel.
    Kernel,
    /// The initrd.
    Initrd,
}

/// The files and the text that a machine boots from, at each reset.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: Image,
    /// Its initrd.
    pub initrd: Option<Image>,
    /// Its command line.
    pub append: String,
}

/// A kernel as it is read.
type KernelBytes<'a> = Cursor<&'a [u8]>;

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
    /// There is no memory to try a kernel in.
    #[error("Try the kernel in {mib} MiB of memory")]
    Trial {
        /// As much as the guest has below 4 GiB; only what the kernel fills is used.
        mib: u64,
        /// Why.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
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
    #[error("Boot the kernel: its command line has {has} bytes, this kernel takes {limit}")]
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

impl Image {
    /// Maps the whole file. `ram_bytes`: what the guest has, of which no image can need more.
    pub fn map(kind: ImageKind, file: OwnedFd, ram_bytes: u64) -> Result<Image, BootError> {
        let failed = |source| BootError::Read {
            what: kind.name(),
            source,
        };
        let file = File::from(file);
        let len = file.metadata().map_err(failed)?.len();
        if len > ram_bytes {
            return Err(BootError::NoRoom {
                what: kind.noun(),
                needs_mib: mib(len),
                has_mib: ram_bytes >> 20,
            });
        }
        let len = usize::try_from(len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        Ok(Image {
            file: BootFile::map(file.as_fd(), len).map_err(failed)?,
            _kept: None,
        })
    }

    /// The same, and this is dropped when it is used no more.
    pub fn keeping(self, kept: impl Debug + Send + Sync + 'static) -> Image {
        Image {
            _kept: Some(Box::new(kept)),
            ..self
        }
    }
}

impl ImageKind {
    /// As options and arguments call it.
    pub fn name(self) -> &'static str {
        match self {
            ImageKind::Kernel => "kernel",
            ImageKind::Initrd => "initrd",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            ImageKind::Kernel => "the kernel",
            ImageKind::Initrd => "the initrd",
        }
    }
}

/// What a boot file holds now, for as long as it is loaded.
fn read(kind: ImageKind, image: &Image) -> Result<Vec<u8>, BootError> {
    let what = kind.name();
    image
        .file
        .copy()
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EFAULT) => BootError::Shorter { what },
            _ => BootError::Read { what, source },
        })
}

impl BootFiles {
    /// Whether [`Self::load`] will find a kernel that it can boot in this memory. Loads it into other memory, which takes as much as
    /// the kernel needs and is given back.
    pub fn check(&self, ram: &[RamRegion]) -> Result<(), BootError> {
        let low_end = low_end(ram);
        let trial = |source| BootError::Trial {
            mib: mib(low_end),
            source,
        };
        let size = usize::try_from(low_end).unwrap_or(usize::MAX);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).map_err(trial)?;
        let loaded = self.load_kernel(&memory, low_end)?;
        let initrd = self.initrd.as_ref();
        initrd.map_or(Ok(()), |image| {
            place_initrd(image.file.len_bytes(), &loaded, low_end).map(drop)
        })
    }

    /// Writes everything into guest memory, with the ACPI tables (`acpi::tables`), and says where the first vCPU begins.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        ram: &[RamRegion],
        acpi: &[u8],
    ) -> Result<CpuState, BootError> {
        let low_end = low_end(ram);
        let loaded = self.load_kernel(memory, low_end)?;
        let initrd = self.load_initrd(memory, &loaded, low_end)?;
        let mut command_line = self.append.clone().into_bytes();
        command_line.push(0);
        memory.write_slice(&command_line, GuestAddress(COMMAND_LINE))?;
        memory.write_slice(acpi, GuestAddress(acpi::TABLES_START))?;
        match loaded.kind {
            Kind::BzImage(header) => bzimage::enter(*header, memory, ram, initrd),
            Kind::Pvh { entry } => elf::enter(entry, memory, ram, initrd),
        }
    }

    fn load_kernel(&self, memory: &GuestMemoryMmap, low_end: u64) -> Result<Loaded, BootError> {
        let bytes = read(ImageKind::Kernel, &self.kernel)?;
        let mut kernel = Cursor::new(bytes.as_slice());
        if bytes.starts_with(b"\x7fELF") {
            elf::load(&mut kernel, memory, low_end)
        } else {
            bzimage::load(&mut kernel, memory, low_end, self.append.len())
        }
    }

    fn load_initrd(
        &self,
        memory: &GuestMemoryMmap,
        loaded: &Loaded,
        low_end: u64,
    ) -> Result<Initrd, BootError> {
        let Some(image) = &self.initrd else {
            return Ok(Initrd::default());
        };
        let bytes = read(ImageKind::Initrd, image)?;
        let initrd = place_initrd(bytes.len() as u64, loaded, low_end)?;
        memory.write_slice(&bytes, GuestAddress(initrd.start))?;
        Ok(initrd)
    }
}

/// Where RAM below 4 GiB ends.
fn low_end(ram: &[RamRegion]) -> u64 {
    let mut ends = ram.iter().map(|region| region.gpa + region.len);
    ends.find(|end| *end <= 1 << 32).unwrap_or(0)
}

/// At the end of RAM below 4 GiB, or lower if the kernel says so.
fn place_initrd(len: u64, loaded: &Loaded, low_end: u64) -> Result<Initrd, BootError> {
    let limit = low_end.min(loaded.initrd_limit.saturating_add(1));
    let start = limit
        .checked_sub(len.next_multiple_of(PAGE))
        .map(|start| start - start % PAGE);
    match start.filter(|start| *start >= loaded.end) {
        Some(start) => Ok(Initrd { start, len }),
        None => Err(BootError::NoRoom {
            what: ImageKind::Initrd.noun(),
            needs_mib: mib(len),
            has_mib: limit.saturating_sub(loaded.end) >> 20,
        }),
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
