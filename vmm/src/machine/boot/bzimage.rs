//! bzImage, entered at its 64-bit entry (Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol").

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory_map::pieces;
use super::{
    BootError, COMMAND_LINE, GDT, HIGH_MEMORY, Initrd, KernelBytes, Kind, Loaded, PAGE_TABLES,
    ZERO_PAGE, mib, read_at,
};
use crate::kvm::CpuState;
use crate::kvm::vcpu::LONG_MODE_GDT;
use crate::machine::acpi;
use crate::memory::layout::RamRegion;

/// Offset of the setup header in the file, and of its magic.
const SETUP_HEADER: u64 = 0x1f1;
const MAGIC: [u8; 4] = *b"HdrS";
/// First protocol version with a 64-bit entry.
const VERSION_64_BIT: u16 = 0x020c;
/// xloadflags: the kernel has a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// type_of_loader: none of the registered ones.
const LOADER_UNDEFINED: u8 = 0xff;
/// loadflags: the heap is usable.
const CAN_USE_HEAP: u8 = 0x80;
const HEAP_END: u16 = 0xfe00;
/// Sectors of setup code when the header says 0.
const DEFAULT_SETUP_SECTS: u64 = 4;
/// Page table entry: present, writable; and with a page of 2 MiB.
const TABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 0x83;

pub(super) fn load(
    image: &mut KernelBytes<'_>,
    memory: &GuestMemoryMmap,
    low_end: u64,
    append_len: usize,
) -> Result<Loaded, BootError> {
    check_header(image.get_ref())?;
    let loaded = BzImage::load(memory, Some(GuestAddress(HIGH_MEMORY)), image, None);
    let len = image.get_ref().len() as u64;
    let room = low_end.saturating_sub(HIGH_MEMORY);
    let no_room = |needs| BootError::NoRoom {
        what: "the kernel",
        needs_mib: mib(needs),
        has_mib: room >> 20,
    };
    let loaded = loaded.map_err(|error| {
        if len > room {
            no_room(len)
        } else {
            BootError::Load(error)
        }
    })?;
    let header = loaded.setup_header.ok_or(BootError::NotAKernel)?;
    let limit = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    if append_len > limit {
        return Err(BootError::CommandLine {
            has: append_len,
            limit,
        });
    }
    // It unpacks itself to its preferred address, where it needs init_size bytes.
    let unpacked = header
        .pref_address
        .max(HIGH_MEMORY)
        .saturating_add(u64::from(header.init_size));
    let end = unpacked.max(loaded.kernel_end);
    if end > low_end {
        return Err(no_room(end - HIGH_MEMORY));
    }
    let initrd_limit = u64::from(header.initrd_addr_max);
    Ok(Loaded {
        end,
        initrd_limit,
        kind: Kind::BzImage(Box::new(header)),
    })
}

/// What linux-loader does not look at: whether the file is whole, and whether there is a 64-bit entry.
fn check_header(image: &[u8]) -> Result<(), BootError> {
    let mut header = [0; 0x4f];
    read_at(image, SETUP_HEADER, &mut header)?;
    let at = |offset: usize, len: usize| {
        header
            .get(offset - 0x1f1..offset - 0x1f1 + len)
            .unwrap_or_default()
    };
    let number = |offset, len| {
        at(offset, len)
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    if at(0x202, 4) != MAGIC {
        return Err(BootError::NotAKernel);
    }
    let version = number(0x206, 2);
    if version < u64::from(VERSION_64_BIT) || number(0x236, 2) & u64::from(XLF_KERNEL_64) == 0 {
        return Err(BootError::Unsupported(
            "this bzImage has no 64-bit entry; take a 64-bit kernel, 3.8 or newer",
        ));
    }
    let sectors = match number(0x1f1, 1) {
        0 => DEFAULT_SETUP_SECTS,
        sectors => sectors,
    };
    // syssize counts paragraphs of 16 bytes.
    let needs = (sectors + 1) * 512 + number(0x1f4, 4) * 16;
    let has = image.len() as u64;
    if has < needs {
        return Err(BootError::Truncated { has, needs });
    }
    Ok(())
}

/// Writes the zero page, segments and page tables.
pub(super) fn enter(
    header: setup_header,
    memory: &GuestMemoryMmap,
    ram: &[RamRegion],
    initrd: Initrd,
) -> Result<CpuState, BootError> {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: acpi::TABLES_START,
        ..Default::default()
    };
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= CAN_USE_HEAP;
    params.hdr.heap_end_ptr = HEAP_END;
    params.hdr.cmd_line_ptr = narrow(COMMAND_LINE);
    params.hdr.ramdisk_image = narrow(initrd.start);
    params.hdr.ramdisk_size = narrow(initrd.len);
    let map = pieces(ram);
    let mut table = params.e820_table;
    for (entry, piece) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: piece.start,
            size: piece.len,
            r#type: piece.kind,
        };
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory)
        .map_err(|_| BootError::Unsupported("its zero page does not fit into guest memory"))?;
    memory.write_slice(
        &LONG_MODE_GDT.map(u64::to_le_bytes).concat(),
        GuestAddress(GDT),
    )?;
    write_page_tables(memory)?;
    Ok(CpuState::LongMode {
        rip: HIGH_MEMORY + ENTRY_64,
        rsi: ZERO_PAGE,
        page_tables: PAGE_TABLES,
        gdt: GDT,
    })
}

/// The first 4 GiB one to one: one top-level table, one of pointers, four directories of 2 MiB pages.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    const PAGE: u64 = super::PAGE;
    let pointers = PAGE_TABLES + PAGE;
    let directories = pointers + PAGE;
    memory.write_slice(&[0; 6 * 4096], GuestAddress(PAGE_TABLES))?;
    memory.write_obj(pointers | TABLE, GuestAddress(PAGE_TABLES))?;
    for index in 0..4 {
        memory.write_obj(
            (directories + index * PAGE) | TABLE,
            GuestAddress(pointers + index * 8),
        )?;
    }
    let entries: Vec<u8> = (0..4u64 * 512)
        .flat_map(|index| ((index << 21) | LARGE_PAGE).to_le_bytes())
        .collect();
    Ok(memory.write_slice(&entries, GuestAddress(directories))?)
}
