//! The MSI-X table and pending bits, as the guest sees them in a BAR.
//!
//! Spec: PCI Local Bus 3.0 §6.8.2.
//! Pure: what the entries mean is wired up in `vectors.rs`. The device's own table is never touched: its BAR pages
//! are not mapped, and the server programs it through the host's kernel.
//! Limits: 2048 vectors.

use crate::kvm::MsiMessage;

/// Bytes of a table entry: address, upper address, data, vector control.
pub const ENTRY_BYTES: usize = 16;
const CONTROL_OFFSET: usize = 12;
const CONTROL_MASKED: u8 = 1;
/// The writable bits of an entry: no reserved address bits, only the mask bit of vector control.
const WRITABLE: [u8; ENTRY_BYTES] = [
    0xfc,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    0xff,
    CONTROL_MASKED,
    0,
    0,
    0,
];

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the vector sends.
    pub message: MsiMessage,
    /// Its own mask bit.
    pub masked: bool,
}

/// The table of one function.
#[derive(Clone, Debug)]
pub struct MsixTable {
    bytes: Vec<u8>,
}

impl MsixTable {
    /// A table after reset: every entry zero and masked.
    pub fn new(vectors: u32) -> Self {
        let mut bytes = vec![0; usize::try_from(vectors).unwrap_or(0) * ENTRY_BYTES];
        for control in bytes.iter_mut().skip(CONTROL_OFFSET).step_by(ENTRY_BYTES) {
            *control = CONTROL_MASKED;
        }
        Self { bytes }
    }

    /// Entries.
    pub fn vectors(&self) -> u32 {
        u32::try_from(self.bytes.len() / ENTRY_BYTES).unwrap_or(0)
    }

    /// A guest read at `offset` of the table.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, at) in data.iter_mut().zip(start..usize::MAX) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// A guest write at `offset` of the table. Gives the vectors that it touched.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> std::ops::Range<u32> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (new, at) in data.iter().zip(start..usize::MAX) {
            if let Some(byte) = self.bytes.get_mut(at) {
                let mask = WRITABLE[at % ENTRY_BYTES];
                *byte = *byte & !mask | new & mask;
            }
        }
        let last = start.saturating_add(data.len()).min(self.bytes.len());
        let vector = |byte: usize| u32::try_from(byte / ENTRY_BYTES).unwrap_or(u32::MAX);
        vector(start.min(last))..vector(last.saturating_add(ENTRY_BYTES - 1))
    }

    /// Entry `vector`, if there is one.
    pub fn entry(&self, vector: u32) -> Option<Entry> {
        let start = usize::try_from(vector).ok()?.checked_mul(ENTRY_BYTES)?;
        let bytes = self.bytes.get(start..start + ENTRY_BYTES)?;
        let (address, rest) = bytes.split_first_chunk::<8>()?;
        let (data, control) = rest.split_first_chunk::<4>()?;
        let message = MsiMessage {
            address: u64::from_le_bytes(*address),
            data: u32::from_le_bytes(*data),
        };
        Some(Entry {
            message,
            masked: control.first()? & CONTROL_MASKED != 0,
        })
    }

    /// How many entries from the first one the guest has given an address: those it means to use.
    pub fn programmed(&self) -> u32 {
        let used = |vector: &u32| {
            self.entry(*vector)
                .is_some_and(|entry| entry.message.address != 0)
        };
        (0..self.vectors())
            .rev()
            .find(used)
            .map_or(0, |last| last + 1)
    }
}

/// A guest read of the pending bit array: bit n is set while vector n waits for its mask to go.
pub fn read_pending(offset: u64, data: &mut [u8], pending: impl Fn(u32) -> bool) {
    for (byte, at) in data.iter_mut().zip(offset..u64::MAX) {
        let first = at.saturating_mul(8);
        *byte = (0..8u8)
            .filter(|bit| u32::try_from(first + u64::from(*bit)).is_ok_and(&pending))
            .fold(0, |bits, bit| bits | 1 << bit);
    }
}

#[cfg(test)]
mod tests;
