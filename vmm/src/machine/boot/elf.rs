//! An ELF kernel (vmlinux), entered at its PVH entry (Xen docs/misc/pvh.pandoc, "x86/HVM direct boot ABI").

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory_map::pieces;
use super::{
    BootError, COMMAND_LINE, GDT, HIGH_MEMORY, Initrd, KernelBytes, Kind, Loaded, PVH_START_INFO,
    mib, read_at,
};
use crate::kvm::CpuState;
use crate::kvm::vcpu::PROTECTED_GDT;
use crate::machine::acpi;
use crate::memory::layout::RamRegion;

const START_MAGIC: u32 = 0x336e_c578;
/// First version with a memory map.
const START_VERSION: u32 = 1;
const MODULES: u64 = PVH_START_INFO + 0x80;
const MEMORY_MAP: u64 = PVH_START_INFO + 0x100;
/// ELF-64: class, and where the program headers are (System V ABI, "ELF Header").
const ELFCLASS64: u8 = 2;
const PHENTSIZE: u64 = 56;
/// More than any kernel has.
const MAX_PROGRAM_HEADERS: u64 = 64;
const PT_LOAD: u64 = 1;
/// Zeros are written in pieces of this size.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

pub(super) fn load(
    image: &mut KernelBytes<'_>,
    memory: &GuestMemoryMmap,
    low_end: u64,
) -> Result<Loaded, BootError> {
    for segment in segments(image.get_ref())? {
        let room = low_end.saturating_sub(HIGH_MEMORY);
        let end = segment.start.checked_add(segment.memory_len);
        let fits = segment.start >= HIGH_MEMORY && end.is_some_and(|end| end <= low_end);
        if !fits && end.is_none_or(|end| end > low_end) {
            let needs_mib = mib(end.unwrap_or(u64::MAX) - HIGH_MEMORY);
            return Err(BootError::NoRoom {
                what: "the kernel",
                needs_mib,
                has_mib: room >> 20,
            });
        }
        if !fits {
            return Err(BootError::Unsupported(
                "this ELF file has a segment below 1 MiB",
            ));
        }
        // What is not in the file: after a reset it holds what the last kernel left there.
        let rest = segment.memory_len.saturating_sub(segment.file_len);
        zero(memory, segment.start + (segment.memory_len - rest), rest)?;
    }
    let loaded =
        Elf::load(memory, None, image, Some(GuestAddress(HIGH_MEMORY))).map_err(BootError::Load)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::Unsupported(
            "this ELF kernel has no PVH entry; build it with CONFIG_PVH=y or give its bzImage",
        ));
    };
    Ok(Loaded {
        end: loaded.kernel_end,
        initrd_limit: u64::MAX,
        kind: Kind::Pvh { entry: entry.0 },
    })
}

struct Segment {
    start: u64,
    file_len: u64,
    memory_len: u64,
}

/// The loadable segments, each wholly in the file.
fn segments(image: &[u8]) -> Result<Vec<Segment>, BootError> {
    let mut header = [0; 64];
    read_at(image, 0, &mut header)?;
    if header[4] != ELFCLASS64 {
        return Err(BootError::NotAKernel);
    }
    let (table, entry_len, count) = (
        number(&header, 32, 8),
        number(&header, 54, 2),
        number(&header, 56, 2),
    );
    if entry_len != PHENTSIZE || count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(BootError::NotAKernel);
    }
    let has = image.len() as u64;
    let mut segments = Vec::new();
    for index in 0..count {
        let mut entry = [0; 56];
        let at = table
            .checked_add(index * PHENTSIZE)
            .ok_or(BootError::NotAKernel)?;
        if at.checked_add(PHENTSIZE).is_none_or(|end| end > has) {
            return Err(BootError::Truncated {
                has,
                needs: at.saturating_add(PHENTSIZE),
            });
        }
        read_at(image, at, &mut entry)?;
        let needs = number(&entry, 8, 8).saturating_add(number(&entry, 32, 8));
        if needs > has {
            return Err(BootError::Truncated { has, needs });
        }
        if number(&entry, 0, 4) == PT_LOAD {
            segments.push(Segment {
                start: number(&entry, 24, 8),
                file_len: number(&entry, 32, 8),
                memory_len: number(&entry, 40, 8),
            });
        }
    }
    Ok(segments)
}

fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes
        .iter()
        .skip(offset)
        .take(len)
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn zero(memory: &GuestMemoryMmap, start: u64, len: u64) -> Result<(), BootError> {
    let mut at = start;
    let end = start + len;
    while at < end {
        let piece = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        memory.write_slice(ZEROS.split_at(piece).0, GuestAddress(at))?;
        at += piece as u64;
    }
    Ok(())
}

/// Writes the start info, its lists, and segments.
pub(super) fn enter(
    entry: u64,
    memory: &GuestMemoryMmap,
    ram: &[RamRegion],
    initrd: Initrd,
) -> Result<CpuState, BootError> {
    let map: Vec<_> = pieces(ram)
        .into_iter()
        .map(|piece| hvm_memmap_table_entry {
            addr: piece.start,
            size: piece.len,
            type_: piece.kind,
            reserved: 0,
        })
        .collect();
    let modules = if initrd.len == 0 {
        Vec::new()
    } else {
        vec![hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.len,
            ..Default::default()
        }]
    };
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        nr_modules: u32::try_from(modules.len()).unwrap_or(0),
        modlist_paddr: MODULES,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: acpi::TABLES_START,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(PVH_START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(|_| BootError::Unsupported("its start info does not fit into guest memory"))?;
    memory.write_slice(
        &PROTECTED_GDT.map(u64::to_le_bytes).concat(),
        GuestAddress(GDT),
    )?;
    Ok(CpuState::Protected {
        rip: entry,
        rbx: PVH_START_INFO,
        gdt: GDT,
    })
}
