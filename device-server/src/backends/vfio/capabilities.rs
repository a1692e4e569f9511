//! Where the capabilities of a device are in its config space.
//!
//! PCI Local Bus 3.0 §6.7 (capabilities list), PCI Express Base §7.6 (extended capabilities).
//! Pure: works on a copy of config space. The device wrote it, and may lie: offsets are bounded, chains that loop
//! or go backwards end after as many steps as there is room for capabilities.

use super::spec::{
    CAP_ID_MSIX, CAPABILITIES_POINTER, EXTENDED_CONFIG_START, MSIX_CONTROL, MSIX_PBA, MSIX_TABLE,
    MSIX_TABLE_ENTRY_BYTES, STATUS, STATUS_CAPABILITIES_LIST,
};

/// Smallest distance of two standard capabilities, in bytes: they are dword aligned.
const STANDARD_STEPS: usize = (256 - 64) / 4;
/// Smallest distance of two extended capabilities, in bytes: they are dword aligned.
const EXTENDED_STEPS: usize = (4096 - 256) / 4;

/// A copy of a device's config space: 256 or 4096 bytes.
#[derive(Debug, Clone)]
pub(super) struct ConfigCopy {
    bytes: Vec<u8>,
}

impl ConfigCopy {
    /// Takes the bytes as they were read.
    pub(super) fn new(bytes: Vec<u8>) -> ConfigCopy {
        ConfigCopy { bytes }
    }

    /// Its size in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The byte at `offset`; all ones outside, as a device that is not there answers.
    pub(super) fn byte(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(u8::MAX)
    }

    /// The 16-bit register at `offset`.
    pub(super) fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset.saturating_add(1))])
    }

    /// The 32-bit register at `offset`.
    pub(super) fn dword(&self, offset: usize) -> u32 {
        let [low, high] = [self.word(offset), self.word(offset.saturating_add(2))];
        u32::from(low) | u32::from(high) << 16
    }

    /// Makes bits of a byte 0.
    pub(super) fn clear_bits(&mut self, offset: usize, bits: u8) {
        if let Some(byte) = self.bytes.get_mut(offset) {
            *byte &= !bits;
        }
    }

    /// The offset of the first standard capability with this id.
    pub(super) fn capability(&self, id: u8) -> Option<usize> {
        if self.word(STATUS) & STATUS_CAPABILITIES_LIST == 0 {
            return None;
        }
        let mut offset = usize::from(self.byte(CAPABILITIES_POINTER) & !3);
        for _ in 0..STANDARD_STEPS {
            if offset < 0x40 {
                return None;
            }
            if self.byte(offset) == id {
                return Some(offset);
            }
            offset = usize::from(self.byte(offset.saturating_add(1)) & !3);
        }
        None
    }

    /// The offset of the first extended capability with this id.
    pub(super) fn extended_capability(&self, id: u16) -> Option<usize> {
        let mut offset = EXTENDED_CONFIG_START;
        for _ in 0..EXTENDED_STEPS {
            if offset < EXTENDED_CONFIG_START || offset.saturating_add(4) > self.len() {
                return None;
            }
            if self.word(offset) == id {
                return Some(offset);
            }
            offset = usize::from(self.word(offset.saturating_add(2)) >> 4 & !3);
        }
        None
    }

    /// Where the MSI-X table and pending bits are; none without MSI-X.
    pub(super) fn msix(&self) -> Option<MsixPlaces> {
        let offset = self.capability(CAP_ID_MSIX)?;
        let vectors =
            u64::from(self.word(offset.saturating_add(MSIX_CONTROL)) & 0x7ff).saturating_add(1);
        let place = |register: usize, len: u64| {
            let value = self.dword(offset.saturating_add(register));
            BarPlace {
                bar: value & 7,
                offset: u64::from(value & !7),
                len,
            }
        };
        Some(MsixPlaces {
            table: place(MSIX_TABLE, vectors.saturating_mul(MSIX_TABLE_ENTRY_BYTES)),
            pba: place(MSIX_PBA, vectors.div_ceil(64).saturating_mul(8)),
        })
    }
}

/// Some bytes of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BarPlace {
    /// Number of the BAR, 0 to 5 (6 and 7 are reserved, and match no region).
    pub(super) bar: u32,
    /// First byte.
    pub(super) offset: u64,
    /// Number of bytes.
    pub(super) len: u64,
}

/// What of the BARs belongs to MSI-X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MsixPlaces {
    /// Address, data and mask of each vector.
    pub(super) table: BarPlace,
    /// Pending bit array.
    pub(super) pba: BarPlace,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_chain(links: &[(usize, u8, u8)]) -> ConfigCopy {
        let mut bytes = vec![0u8; 256];
        bytes[STATUS] = 0x10;
        bytes[CAPABILITIES_POINTER] = 0x40;
        for (offset, id, next) in links {
            bytes[*offset..][..2].copy_from_slice(&[*id, *next]);
        }
        ConfigCopy::new(bytes)
    }

    #[test]
    fn capability_is_found_behind_others() {
        let config = with_chain(&[(0x40, 1, 0x50), (0x50, 0x11, 0)]);
        assert_eq!(config.capability(0x11), Some(0x50));
        assert_eq!(config.capability(0x05), None);
    }

    #[test]
    fn capability_chain_that_loops_ends() {
        let config = with_chain(&[(0x40, 1, 0x50), (0x50, 2, 0x40)]);
        assert_eq!(config.capability(0x11), None);
    }

    #[test]
    fn extended_chain_that_loops_or_leaves_config_space_ends() {
        let mut bytes = vec![0u8; 4096];
        bytes[0x100..0x104].copy_from_slice(&(0x1001_0003u32 | 0x100 << 20).to_le_bytes());
        assert_eq!(ConfigCopy::new(bytes.clone()).extended_capability(1), None);
        bytes[0x100..0x104].copy_from_slice(&(0x0001_0003u32 | 0xffc << 20).to_le_bytes());
        assert_eq!(ConfigCopy::new(bytes).extended_capability(1), None);
    }

    #[test]
    fn msix_places_follow_the_registers() {
        let mut config = with_chain(&[(0x40, CAP_ID_MSIX, 0)]);
        config.bytes[0x42..0x44].copy_from_slice(&64u16.to_le_bytes());
        config.bytes[0x44..0x48].copy_from_slice(&0x2000u32.to_le_bytes());
        config.bytes[0x48..0x4c].copy_from_slice(&0x3004u32.to_le_bytes());
        let msix = config.msix().unwrap();
        assert_eq!(
            msix.table,
            BarPlace {
                bar: 0,
                offset: 0x2000,
                len: 65 * 16
            }
        );
        assert_eq!(
            msix.pba,
            BarPlace {
                bar: 4,
                offset: 0x3000,
                len: 16
            }
        );
    }
}
