//! Base address registers: sizing and decode of the seven registers of a type 0 header.
//!
//! Spec: PCI Local Bus 3.0 §6.2.5 (base addresses, expansion ROM); the answer to an all-ones write is the size.
//! Pure: a write changes a value, `decoded` says which guest range the value means. Nothing is mapped here.
//! Not supported: BARs of type "below 1 MiB" and 16-bit I/O decoders; the attach refuses them.
//! Limits: a memory BAR is 16 B to 1 TiB, an I/O BAR 4 B to 64 KiB, a ROM 2 KiB to 16 MiB; all are powers of two.

use crate::address_space::AddressRange;

/// How many registers a type 0 header has: six BARs and the expansion ROM.
pub const REGISTERS: usize = 7;
/// Index of the expansion ROM among the registers; the same number as vfio-user's region.
pub const ROM: u8 = 6;
/// Largest memory BAR, in bytes (1 TiB). Guests have 40 to 52 address bits; more is a device that lies.
pub const MAX_MEMORY_BAR_BYTES: u64 = 1 << 40;
/// Largest I/O BAR, in bytes: x86 has 64 KiB of ports.
pub const MAX_IO_BAR_BYTES: u64 = 1 << 16;
/// Largest expansion ROM, in bytes (PCI 3.0 §6.2.5.2 allows 16 MiB).
pub const MAX_ROM_BYTES: u64 = 16 << 20;

/// Bits of the command register that make BARs decode.
pub const COMMAND_IO: u16 = 1 << 0;
/// See [`COMMAND_IO`].
pub const COMMAND_MEMORY: u16 = 1 << 1;

const FLAG_IO: u32 = 1;
const FLAG_64_BIT: u32 = 4;
const FLAG_PREFETCHABLE: u32 = 8;
const ROM_ENABLE: u32 = 1;

/// What a register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes this register and the next.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// I/O ports.
    Io,
    /// The expansion ROM, memory below 4 GiB with an enable bit of its own.
    Rom,
}

/// One decoder of a function, as firmware must place it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRequest {
    /// 0 to 5, or [`ROM`].
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// A power of two.
    pub size: u64,
}

/// Why a set of decoders cannot be the registers of one function.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BarError {
    /// The size is no power of two, or out of bounds.
    #[error(
        "BAR {index} has {size:#x} bytes, which is no power of two between {least:#x} and {most:#x}"
    )]
    Size {
        /// The register.
        index: u8,
        /// What was claimed.
        size: u64,
        /// Smallest allowed.
        least: u64,
        /// Largest allowed.
        most: u64,
    },
    /// Two decoders want the same register.
    #[error("BAR {index} is described twice, or lies in the upper half of a 64-bit BAR")]
    Taken {
        /// The register.
        index: u8,
    },
    /// There is no such register.
    #[error("BAR {index} does not exist, or a 64-bit BAR has no register for its upper half")]
    NoRegister {
        /// The register.
        index: u8,
    },
}

/// A decoder that is on, with the guest range that its register names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// 0 to 5, or [`ROM`].
    pub index: u8,
    /// True for I/O ports.
    pub io: bool,
    /// Where the guest put it.
    pub range: AddressRange,
}

#[derive(Clone, Copy, Debug)]
enum Register {
    Absent,
    Low(BarRequest),
    High(BarRequest),
}

/// The registers of one function.
#[derive(Clone, Debug)]
pub struct Bars {
    registers: [Register; REGISTERS],
    values: [u32; REGISTERS],
}

impl Bars {
    /// The registers for these decoders, all at address zero.
    pub fn new(requests: &[BarRequest]) -> Result<Bars, BarError> {
        let mut registers = [Register::Absent; REGISTERS];
        for request in requests {
            check_size(request)?;
            place(&mut registers, request.index, Register::Low(*request))?;
            if matches!(request.kind, BarKind::Memory64 { .. }) {
                if request.index >= ROM - 1 {
                    return Err(BarError::NoRegister {
                        index: request.index,
                    });
                }
                place(&mut registers, request.index + 1, Register::High(*request))?;
            }
        }
        Ok(Bars {
            registers,
            values: [0; REGISTERS],
        })
    }

    /// The decoders, lowest register first.
    pub fn requests(&self) -> Vec<BarRequest> {
        self.registers
            .iter()
            .filter_map(|register| match register {
                Register::Low(request) => Some(*request),
                Register::Absent | Register::High(_) => None,
            })
            .collect()
    }

    /// What the guest reads from register `index`.
    pub fn read(&self, index: u8) -> u32 {
        let Some((register, value)) = self.at(index) else {
            return 0;
        };
        match register {
            Register::Absent => 0,
            Register::High(_) => value,
            Register::Low(request) => value | flags(request.kind),
        }
    }

    /// The guest writes the whole of register `index`.
    pub fn write(&mut self, index: u8, value: u32) {
        let Some((register, _)) = self.at(index) else {
            return;
        };
        let mask = writable(register);
        if let Some(slot) = self.values.get_mut(usize::from(index)) {
            *slot = value & mask;
        }
    }

    /// Every register back to zero, as after a reset.
    pub fn clear(&mut self) {
        self.values = [0; REGISTERS];
    }

    /// The decoders that the command register turns on.
    pub fn decoded(&self, command: u16) -> Vec<Decoded> {
        self.requests()
            .iter()
            .filter_map(|request| self.decode(request, command))
            .collect()
    }

    fn decode(&self, request: &BarRequest, command: u16) -> Option<Decoded> {
        let (_, low) = self.at(request.index)?;
        let (_, high) = self
            .at(request.index.saturating_add(1))
            .unwrap_or((Register::Absent, 0));
        let memory = command & COMMAND_MEMORY != 0;
        let (on, start) = match request.kind {
            BarKind::Memory32 { .. } => (memory, u64::from(low)),
            BarKind::Memory64 { .. } => (memory, u64::from(high) << 32 | u64::from(low)),
            BarKind::Io => (command & COMMAND_IO != 0, u64::from(low)),
            BarKind::Rom => (
                memory && low & ROM_ENABLE != 0,
                u64::from(low & !ROM_ENABLE),
            ),
        };
        let io = matches!(request.kind, BarKind::Io);
        on.then_some(Decoded {
            index: request.index,
            io,
            range: AddressRange {
                start,
                len: request.size,
            },
        })
    }

    fn at(&self, index: u8) -> Option<(Register, u32)> {
        let index = usize::from(index);
        Some((*self.registers.get(index)?, *self.values.get(index)?))
    }
}

fn place(registers: &mut [Register; REGISTERS], index: u8, what: Register) -> Result<(), BarError> {
    let slot = registers
        .get_mut(usize::from(index))
        .ok_or(BarError::NoRegister { index })?;
    match slot {
        Register::Absent => *slot = what,
        Register::Low(_) | Register::High(_) => return Err(BarError::Taken { index }),
    }
    Ok(())
}

fn check_size(request: &BarRequest) -> Result<(), BarError> {
    let (least, most) = match request.kind {
        BarKind::Memory32 { .. } => (16, 1 << 31),
        BarKind::Memory64 { .. } => (16, MAX_MEMORY_BAR_BYTES),
        BarKind::Io => (4, MAX_IO_BAR_BYTES),
        BarKind::Rom => (2048, MAX_ROM_BYTES),
    };
    let BarRequest { index, size, .. } = *request;
    let is_rom = matches!(request.kind, BarKind::Rom);
    if is_rom != (index == ROM) {
        return Err(BarError::NoRegister { index });
    }
    if !size.is_power_of_two() || size < least || size > most {
        return Err(BarError::Size {
            index,
            size,
            least,
            most,
        });
    }
    Ok(())
}

fn flags(kind: BarKind) -> u32 {
    let prefetch = |on: bool| if on { FLAG_PREFETCHABLE } else { 0 };
    match kind {
        BarKind::Memory32 { prefetchable } => prefetch(prefetchable),
        BarKind::Memory64 { prefetchable } => FLAG_64_BIT | prefetch(prefetchable),
        BarKind::Io => FLAG_IO,
        BarKind::Rom => 0,
    }
}

/// The address bits that a register stores: those at or above the size.
fn writable(register: Register) -> u32 {
    let low = |size: u64| u32::try_from(!(size - 1) & 0xffff_ffff).unwrap_or(0);
    match register {
        Register::Absent => 0,
        Register::High(request) => low((request.size >> 32).max(1)),
        Register::Low(request) if request.size > u64::from(u32::MAX) => 0,
        Register::Low(request) => match request.kind {
            BarKind::Rom => low(request.size) | ROM_ENABLE,
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } | BarKind::Io => low(request.size),
        },
    }
}

#[cfg(test)]
mod tests;
