//! Free pieces of an address window: first fit, aligned.

use crate::address_space::AddressRange;

/// Free pieces of a window, lowest first.
pub(super) struct FreeSpace {
    pieces: Vec<AddressRange>,
}

impl FreeSpace {
    pub(super) fn new(window: AddressRange) -> Self {
        Self {
            pieces: vec![window],
        }
    }

    pub(super) fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let (index, start) = self.pieces.iter().enumerate().find_map(|(index, piece)| {
            let start = piece.start.checked_next_multiple_of(align)?;
            let end = start.checked_add(size)?;
            (end <= piece.start + piece.len).then_some((index, start))
        })?;
        let piece = self.pieces.remove(index);
        let after = AddressRange {
            start: start + size,
            len: piece.start + piece.len - (start + size),
        };
        let before = AddressRange {
            start: piece.start,
            len: start - piece.start,
        };
        for rest in [after, before] {
            if rest.len > 0 {
                self.pieces.insert(index, rest);
            }
        }
        Some(start)
    }

    pub(super) fn largest(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).max().unwrap_or(0)
    }
}
