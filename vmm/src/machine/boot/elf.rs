//! An ELF kernel (vmlinux), entered at its PVH entry (Xen docs/misc/pvh.pandoc, "x86/HVM direct boot ABI").

use std::ops::Range;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory_map::pieces;
use super::{
    BootError, COMMAND_LINE, GDT, HIGH_MEMORY, Initrd, Kind, PVH_START_INFO, Plan, Segment, mib,
    read_at,
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
/// ELF-64: class, byte order, and where the program headers are (System V ABI, "ELF Header").
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const PHENTSIZE: u64 = 56;
/// More than any kernel has.
const MAX_PROGRAM_HEADERS: u64 = 64;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY_NOTE: u64 = 18;

/// Where everything of it goes.
pub(super) fn plan(image: &[u8], low_end: u64) -> Result<Plan, BootError> {
    let headers = program_headers(image)?;
    let mut segments = Vec::new();
    for header in headers.iter().filter(|header| header.kind == PT_LOAD) {
        segments.push(segment(header, low_end)?);
    }
    let note = |header: &&ProgramHeader| header.kind == PT_NOTE;
    let mut notes = headers.iter().filter(note);
    let entry = notes.find_map(|header| pvh_entry(image.get(header.file.clone())?));
    let Some(entry) = entry else {
        return Err(BootError::Unsupported(
            "this ELF kernel has no PVH entry; build it with CONFIG_PVH=y or give its bzImage",
        ));
    };
    let ends = segments
        .iter()
        .map(|segment| segment.start + segment.memory_len);
    Ok(Plan {
        end: ends.max().unwrap_or(HIGH_MEMORY),
        initrd_limit: u64::MAX,
        kind: Kind::Pvh { entry },
        segments,
    })
}

/// One entry of the program header table.
struct ProgramHeader {
    kind: u64,
    start: u64,
    /// What it has of the file, all of which is there.
    file: Range<usize>,
    memory_len: u64,
}

/// A loadable segment that fits into memory.
fn segment(header: &ProgramHeader, low_end: u64) -> Result<Segment, BootError> {
    let memory_len = header.memory_len.max(header.file.len() as u64);
    let end = header.start.checked_add(memory_len);
    if end.is_none_or(|end| end > low_end) {
        return Err(BootError::NoRoom {
            what: "the kernel",
            needs_mib: mib(end.unwrap_or(u64::MAX).saturating_sub(HIGH_MEMORY)),
            has_mib: low_end.saturating_sub(HIGH_MEMORY) >> 20,
        });
    }
    if header.start < HIGH_MEMORY {
        return Err(BootError::Unsupported(
            "this ELF file has a segment below 1 MiB",
        ));
    }
    Ok(Segment {
        start: header.start,
        file: header.file.clone(),
        memory_len,
    })
}

/// The program headers, each wholly in the file.
fn program_headers(image: &[u8]) -> Result<Vec<ProgramHeader>, BootError> {
    let mut header = [0; 64];
    read_at(image, 0, &mut header)?;
    if header[4] != ELFCLASS64 || header[5] != ELFDATA2LSB {
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
    let mut headers = Vec::new();
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
        let offset = number(&entry, 8, 8);
        let needs = offset.saturating_add(number(&entry, 32, 8));
        if needs > has {
            return Err(BootError::Truncated { has, needs });
        }
        let in_file = |offset| usize::try_from(offset).map_err(|_| BootError::NotAKernel);
        headers.push(ProgramHeader {
            kind: number(&entry, 0, 4),
            start: number(&entry, 24, 8),
            file: in_file(offset)?..in_file(needs)?,
            memory_len: number(&entry, 40, 8),
        });
    }
    Ok(headers)
}

/// The entry in a list of notes (System V ABI, "Note Section"), if there is one.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let name_len = usize::try_from(number(header, 0, 4)).ok()?;
        let value_len = usize::try_from(number(header, 4, 4)).ok()?;
        let (name, rest) = rest.split_at_checked(name_len.next_multiple_of(4))?;
        let value = rest.get(..value_len)?;
        if number(header, 8, 4) == PVH_ENTRY_NOTE && name == b"Xen\0" && value_len >= 4 {
            return Some(number(value, 0, 4));
        }
        // The padding of the last one may be missing.
        notes = rest.get(value_len.next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes
        .iter()
        .skip(offset)
        .take(len)
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
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
