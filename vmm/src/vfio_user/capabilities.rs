//! Where the capabilities are in a passed device's configuration space.
//!
//! Spec: PCI Local Bus 3.0 §6.7 (list), §6.8 (MSI, MSI-X); PCI Express Base 4.0 §7.5.3 (PCI Express), §7.6 (extended list);
//! PCI Power Management 1.2 §3.2; Advanced Features ECN.
//! Pure: walks a copy that was taken at attach. The device may change its space later; nobody walks it again.
//! Limits: each list visits an offset once at most, so a list has 48 (960 extended) entries at most.

use super::wire::{u8_at, u16_at, u32_at};

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITY_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
const LEGACY_BYTES: usize = 256;
const EXTENDED_BYTES: usize = 4096;

const ID_POWER_MANAGEMENT: u8 = 0x01;
const ID_MSI: u8 = 0x05;
const ID_EXPRESS: u8 = 0x10;
const ID_MSIX: u8 = 0x11;
const ID_ADVANCED_FEATURES: u8 = 0x13;

const MSI_CONTROL_64_BIT: u16 = 1 << 7;
const MSI_CONTROL_MASKING: u16 = 1 << 8;
const DEVCAP_FLR: u32 = 1 << 28;
const AF_CAPABILITIES_FLR: u8 = 1 << 1;

/// Extended capabilities that a guest must not see: it would use them on a function that is alone in its topology, or
/// resize BARs behind the VMM's back. ARI, SR-IOV, Resizable BAR, VF Resizable BAR.
const HIDDEN_EXTENDED: [u16; 4] = [0x000e, 0x0010, 0x0015, 0x0024];

/// The capabilities that the VMM takes part in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Offset of the power management capability.
    pub power: Option<u16>,
    /// MSI.
    pub msi: Option<MsiLayout>,
    /// MSI-X.
    pub msix: Option<MsixLayout>,
    /// Registers whose bit starts a function-level reset.
    pub function_resets: Vec<FunctionResetBit>,
    /// Offsets of extended capabilities that the guest must not see.
    pub hidden: Vec<u16>,
}

/// An MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLayout {
    /// Where it starts.
    pub offset: u16,
    /// Vectors it can have, a power of two.
    pub vectors: u32,
    /// The address has 64 bits.
    pub wide: bool,
    /// Vectors can be masked one by one.
    pub masking: bool,
}

impl MsiLayout {
    /// Bytes of the capability, with its id.
    pub fn len_bytes(&self) -> usize {
        let base = if self.wide { 14 } else { 10 };
        if self.masking { base + 10 } else { base }
    }
}

/// An MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Where it starts.
    pub offset: u16,
    /// Entries of the table, 1 to 2048.
    pub vectors: u32,
    /// Where the table is.
    pub table: InBar,
    /// Where the pending bits are.
    pub pending: InBar,
}

/// A place in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBar {
    /// The BAR; up to 7 as it comes from the device.
    pub bar: u8,
    /// Offset in it, a multiple of 8.
    pub offset: u64,
}

/// A byte of configuration space and its bit that resets the function when a one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionResetBit {
    /// Offset of the byte.
    pub offset: u16,
    /// The bit.
    pub mask: u8,
}

/// The lists make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// A pointer leads out of the list's area.
    #[error("a capability pointer leads to {0:#x}, where none can be")]
    OutOfArea(usize),
    /// An offset comes twice.
    #[error("the capability list comes back to {0:#x}")]
    Loop(usize),
    /// A capability passes the end.
    #[error("capability {id:#x} at {offset:#x} passes the end of its area")]
    TooLong {
        /// Its id.
        id: u8,
        /// Its offset.
        offset: usize,
    },
    /// Two where one may be, or two that overlap.
    #[error("capability {id:#x} at {offset:#x} is there twice, or overlaps another")]
    Overlap {
        /// Its id.
        id: u8,
        /// Its offset.
        offset: usize,
    },
    /// More than 32 MSI vectors.
    #[error("the MSI capability has {0} vectors, PCI allows 32")]
    MsiVectors(u32),
}

/// Finds the capabilities in a copy of configuration space (256 or 4096 bytes).
pub fn find(space: &[u8]) -> Result<Capabilities, CapabilityError> {
    let mut found = Capabilities::default();
    let mut taken: Vec<std::ops::Range<usize>> = Vec::new();
    for offset in list(space)? {
        let id = u8_at(space, offset);
        let len = known(space, id, offset, &mut found)?;
        let range = offset..offset + len;
        if range.end > LEGACY_BYTES {
            return Err(CapabilityError::TooLong { id, offset });
        }
        if taken
            .iter()
            .any(|other| other.start < range.end && range.start < other.end)
        {
            return Err(CapabilityError::Overlap { id, offset });
        }
        taken.push(range);
    }
    found.hidden = hidden(space)?;
    Ok(found)
}

/// The offsets of the list, checked.
fn list(space: &[u8]) -> Result<Vec<usize>, CapabilityError> {
    let mut offsets = Vec::new();
    if u16_at(space, STATUS) & STATUS_CAPABILITIES == 0 {
        return Ok(offsets);
    }
    let mut next = usize::from(u8_at(space, CAPABILITY_POINTER) & 0xfc);
    while next != 0 {
        if next < FIRST_CAPABILITY {
            return Err(CapabilityError::OutOfArea(next));
        }
        if offsets.contains(&next) {
            return Err(CapabilityError::Loop(next));
        }
        offsets.push(next);
        next = usize::from(u8_at(space, next + 1) & 0xfc);
    }
    Ok(offsets)
}

/// Takes note of a capability that matters; gives its length (2 for those that do not).
fn known(
    space: &[u8],
    id: u8,
    offset: usize,
    found: &mut Capabilities,
) -> Result<usize, CapabilityError> {
    let at = u16::try_from(offset).map_err(|_| CapabilityError::OutOfArea(offset))?;
    let twice = Err(CapabilityError::Overlap { id, offset });
    match id {
        ID_POWER_MANAGEMENT => {
            if found.power.replace(at).is_some() {
                return twice;
            }
            Ok(8)
        }
        ID_MSI => {
            let layout = msi(space, at)?;
            if found.msi.replace(layout).is_some() {
                return twice;
            }
            Ok(layout.len_bytes())
        }
        ID_MSIX => {
            if found.msix.replace(msix(space, at)).is_some() {
                return twice;
            }
            Ok(12)
        }
        ID_EXPRESS => {
            if u32_at(space, offset + 4) & DEVCAP_FLR != 0 {
                // DEVCTL is at 8; bit 15 is in its upper byte.
                found.function_resets.push(FunctionResetBit {
                    offset: at + 9,
                    mask: 1 << 7,
                });
            }
            Ok(20)
        }
        ID_ADVANCED_FEATURES => {
            if u8_at(space, offset + 3) & AF_CAPABILITIES_FLR != 0 {
                found.function_resets.push(FunctionResetBit {
                    offset: at + 4,
                    mask: 1,
                });
            }
            Ok(6)
        }
        _ => Ok(2),
    }
}

fn msi(space: &[u8], offset: u16) -> Result<MsiLayout, CapabilityError> {
    let control = u16_at(space, usize::from(offset) + 2);
    let vectors = 1u32 << (control >> 1 & 7);
    if vectors > protocol::limits::MAX_MSI_VECTORS {
        return Err(CapabilityError::MsiVectors(vectors));
    }
    let (wide, masking) = (
        control & MSI_CONTROL_64_BIT != 0,
        control & MSI_CONTROL_MASKING != 0,
    );
    Ok(MsiLayout {
        offset,
        vectors,
        wide,
        masking,
    })
}

fn msix(space: &[u8], offset: u16) -> MsixLayout {
    let at = usize::from(offset);
    let in_bar = |register: u32| {
        let [low, ..] = register.to_le_bytes();
        InBar {
            bar: low & 7,
            offset: u64::from(register & !7),
        }
    };
    MsixLayout {
        offset,
        vectors: u32::from(u16_at(space, at + 2) & 0x7ff) + 1,
        table: in_bar(u32_at(space, at + 4)),
        pending: in_bar(u32_at(space, at + 8)),
    }
}

/// Offsets of the extended capabilities to hide.
fn hidden(space: &[u8]) -> Result<Vec<u16>, CapabilityError> {
    let mut hidden = Vec::new();
    if space.len() < EXTENDED_BYTES {
        return Ok(hidden);
    }
    let mut visited = Vec::new();
    let mut next = LEGACY_BYTES;
    while next != 0 {
        if next < LEGACY_BYTES {
            return Err(CapabilityError::OutOfArea(next));
        }
        if visited.contains(&next) {
            return Err(CapabilityError::Loop(next));
        }
        visited.push(next);
        let header = u32_at(space, next);
        if header == 0 || header == u32::MAX {
            break;
        }
        let [low, high, ..] = header.to_le_bytes();
        if HIDDEN_EXTENDED.contains(&u16::from_le_bytes([low, high])) {
            hidden.push(u16::try_from(next).map_err(|_| CapabilityError::OutOfArea(next))?);
        }
        next = usize::try_from(header >> 20).unwrap_or(0) & 0xffc;
    }
    Ok(hidden)
}

#[cfg(test)]
mod tests;
