//! The DMA map table: which ranges of client memory a device may reach.
//!
//! Spec: vfio-user DMA_MAP and DMA_UNMAP. A pure data structure: no mmap, no sockets.
//! Ranges never overlap; a range is removed only by naming it exactly; partial unmap is not supported.
//! Limit: the number of ranges is bounded by the maximum given to `new`. Every operation on one range takes
//! logarithmic time.

use std::collections::BTreeMap;

use protocol::{Errno, Iova, IovaRange};

/// Disjoint ranges of I/O virtual addresses, each with what the owner keeps for it.
#[derive(Debug)]
pub struct DmaTable<T> {
    by_start: BTreeMap<u64, (IovaRange, T)>,
    max_ranges: usize,
}

/// Why a range could not be added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaTableError {
    /// Some address of the range is mapped already.
    #[error("the range overlaps one that is mapped")]
    Overlap,
    /// The maximum number of ranges is reached.
    #[error("too many ranges are mapped")]
    Full,
    /// No range with exactly this start and length.
    #[error("no such range is mapped")]
    NotMapped,
}

impl DmaTableError {
    /// What the client is told.
    pub fn errno(self) -> Errno {
        match self {
            DmaTableError::Overlap => Errno::EXIST,
            DmaTableError::Full => Errno::NOSPC,
            DmaTableError::NotMapped => Errno::NOENT,
        }
    }
}

impl<T> DmaTable<T> {
    /// An empty table for at most `max_ranges` ranges.
    pub fn new(max_ranges: usize) -> DmaTable<T> {
        DmaTable {
            by_start: BTreeMap::new(),
            max_ranges,
        }
    }

    /// Whether `range` could be added now.
    pub fn check_insert(&self, range: IovaRange) -> Result<(), DmaTableError> {
        // The only candidate that can overlap is the last one that starts at or before the end of `range`.
        let last = last_address(range);
        if let Some((_, (before, _))) = self.by_start.range(..=last).next_back()
            && last_address(*before) >= range.start().0
        {
            return Err(DmaTableError::Overlap);
        }
        if self.by_start.len() >= self.max_ranges {
            return Err(DmaTableError::Full);
        }
        Ok(())
    }

    /// Adds `range`.
    pub fn insert(&mut self, range: IovaRange, value: T) -> Result<(), DmaTableError> {
        self.check_insert(range)?;
        self.by_start.insert(range.start().0, (range, value));
        Ok(())
    }

    /// Whether exactly this range is in the table.
    pub fn contains_exactly(&self, range: IovaRange) -> bool {
        self.by_start
            .get(&range.start().0)
            .is_some_and(|(found, _)| *found == range)
    }

    /// Removes exactly this range.
    pub fn remove(&mut self, range: IovaRange) -> Result<T, DmaTableError> {
        if !self.contains_exactly(range) {
            return Err(DmaTableError::NotMapped);
        }
        let entry = self
            .by_start
            .remove(&range.start().0)
            .ok_or(DmaTableError::NotMapped)?;
        Ok(entry.1)
    }

    /// Any one range, for emptying the table range by range.
    pub fn first(&self) -> Option<IovaRange> {
        self.by_start
            .first_key_value()
            .map(|(_, (range, _))| *range)
    }

    /// The range that holds `address`, with what is kept for it.
    pub fn find(&self, address: Iova) -> Option<(IovaRange, &T)> {
        let (_, (range, value)) = self.by_start.range(..=address.0).next_back()?;
        (last_address(*range) >= address.0).then_some((*range, value))
    }

    /// All ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = IovaRange> {
        self.by_start.values().map(|(range, _)| *range)
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Removes every range.
    pub fn clear(&mut self) {
        self.by_start.clear();
    }
}

/// The last address of a range. A range is not empty and does not wrap, so this exists even where the end,
/// one further, is 2^64.
fn last_address(range: IovaRange) -> u64 {
    range
        .start()
        .0
        .saturating_add(range.len().saturating_sub(1))
}

#[cfg(test)]
mod tests;
