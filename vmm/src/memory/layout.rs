//! The guest's address map: where RAM, the PCI windows and the fixed chips are.
//!
//! | Addresses | What |
//! |---|---|
//! | `0` to 2.75 GiB | RAM (with the usual hole from 640 KiB to 1 MiB, which holds the ACPI tables) |
//! | `0xb000_0000` | ECAM: 256 buses of 1 MiB |
//! | `0xc000_0000` to `0xfc00_0000` | 32-bit PCI window |
//! | `0xfec0_0000`, `0xfee0_0000` | IOAPIC, local APIC |
//! | `0xfffb_c000` | 16 KiB that KVM needs on Intel |
//! | 4 GiB and up | RAM above 4 GiB |
//! | the upper half of the physical address space | 64-bit PCI window |
//!
//! Pure arithmetic: nothing is allocated here.

use crate::address_space::AddressRange;

#[cfg(test)]
mod tests;

/// RAM below 4 GiB ends here at the latest.
pub const RAM_LOW_END: u64 = ECAM.start;
/// RAM that does not fit below continues here.
pub const RAM_HIGH_START: u64 = 1 << 32;
/// PCI configuration space of buses 0 to 255.
pub const ECAM: AddressRange = AddressRange {
    start: 0xb000_0000,
    len: 0x1000_0000,
};
/// Where 32-bit BARs live.
pub const MMIO32: AddressRange = AddressRange {
    start: 0xc000_0000,
    len: 0x3c00_0000,
};
/// Where I/O BARs live. Ports below are the board's own.
pub const PIO: AddressRange = AddressRange {
    start: 0x1000,
    len: 0xf000,
};
/// The I/O APIC (Intel 82093AA: one page).
pub const IOAPIC_START: u32 = 0xfec0_0000;
/// The local APICs (Intel SDM 3A §11.4.1, default base).
pub const LAPIC_START: u32 = 0xfee0_0000;
/// One page for KVM's identity map, then three for its task state segment (KVM API §4.10, §4.47).
pub const KVM_IDENTITY_MAP_START: u64 = 0xfffb_c000;
/// See [`KVM_IDENTITY_MAP_START`].
pub const KVM_TSS_START: u64 = KVM_IDENTITY_MAP_START + 0x1000;

/// The window that a BAR above 4 GiB gets stays below this many address bits: what four-level page tables
/// of the host and most IOMMUs reach.
pub const MAX_PHYSICAL_BITS: u8 = 46;
/// With fewer bits there is no room for RAM and the 64-bit window above 4 GiB.
pub const MIN_PHYSICAL_BITS: u8 = 34;

/// A piece of guest RAM: `len` bytes at guest address `gpa`, found at `file_offset` of the RAM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// Guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where it is in the RAM file.
    pub file_offset: u64,
}

/// The address map of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLayout {
    /// One or two pieces of RAM, lowest first.
    pub ram: Vec<RamRegion>,
    /// Where 64-bit BARs live.
    pub mmio64: AddressRange,
}

/// This much RAM cannot be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// RAM would reach into the 64-bit PCI window.
    #[error(
        "Place {} MiB of guest memory: this CPU's {physical_bits} address bits leave room for {} MiB; give less with -m",
        size_bytes >> 20, limit_bytes >> 20
    )]
    TooMuchMemory {
        /// What was asked for.
        size_bytes: u64,
        /// What would fit.
        limit_bytes: u64,
        /// Address bits of the guest CPU.
        physical_bits: u8,
    },
    /// No space above 4 GiB.
    #[error("Place the PCI windows: this CPU has {0} address bits, {MIN_PHYSICAL_BITS} are needed")]
    TooFewBits(u8),
}

/// Places `size_bytes` of RAM, made of pages of `page_size` bytes, and the 64-bit window.
pub fn place(
    size_bytes: u64,
    page_size: u64,
    physical_bits: u8,
) -> Result<GuestLayout, LayoutError> {
    let physical_bits = physical_bits.min(MAX_PHYSICAL_BITS);
    if physical_bits < MIN_PHYSICAL_BITS {
        return Err(LayoutError::TooFewBits(physical_bits));
    }
    let half = 1u64 << (physical_bits - 1);
    let low_end = RAM_LOW_END - RAM_LOW_END % page_size;
    let limit_bytes = half - RAM_HIGH_START + low_end;
    if size_bytes > limit_bytes {
        return Err(LayoutError::TooMuchMemory {
            size_bytes,
            limit_bytes,
            physical_bits,
        });
    }
    let low = size_bytes.min(low_end);
    let mut ram = vec![RamRegion {
        gpa: 0,
        len: low,
        file_offset: 0,
    }];
    if size_bytes > low {
        ram.push(RamRegion {
            gpa: RAM_HIGH_START,
            len: size_bytes - low,
            file_offset: low,
        });
    }
    Ok(GuestLayout {
        ram,
        mmio64: AddressRange {
            start: half,
            len: half,
        },
    })
}
