//! Which ranges the server may reach by message: those that were mapped, with the rights they were mapped with.

use crate::ids::{Iova, IovaRange};
use crate::messages::dma::DmaMapFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// The maps of one connection.
#[derive(Debug, Default)]
pub(super) struct DmaTable {
    /// By first address.
    maps: BTreeMap<u64, (IovaRange, DmaMapFlags)>,
}

impl DmaTable {
    pub(super) fn len(&self) -> usize {
        self.maps.len()
    }

    /// Adds a map unless it overlaps one; returns whether it did.
    pub(super) fn insert(&mut self, range: IovaRange, flags: DmaMapFlags) -> bool {
        let before = self.maps.range(..range.end().0).next_back();
        if before.is_some_and(|(_, (map, _))| map.overlaps(&range)) {
            return false;
        }
        self.maps.insert(range.start().0, (range, flags));
        true
    }

    pub(super) fn remove(&mut self, range: &IovaRange) {
        let start = range.start().0;
        if self.maps.get(&start).is_some_and(|(map, _)| map == range) {
            self.maps.remove(&start);
        }
    }

    pub(super) fn clear(&mut self) {
        self.maps.clear();
    }

    /// Is every byte in a map that has the right?
    ///
    /// # Errors
    /// EFAULT when a byte is not mapped, EPERM when the right is missing.
    pub(super) fn check(
        &self,
        address: Iova,
        count: usize,
        right: DmaMapFlags,
    ) -> Result<(), Errno> {
        let count = u64::try_from(count).map_err(|_| Errno::INVAL)?;
        let end = address.0.checked_add(count).ok_or(Errno::INVAL)?;
        let mut at = address.0;
        while at < end {
            let (_, (map, flags)) = self.maps.range(..=at).next_back().ok_or(Errno::FAULT)?;
            if map.end().0 <= at {
                return Err(Errno::FAULT);
            }
            if !flags.contains(right) {
                return Err(Errno::PERM);
            }
            at = map.end().0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> IovaRange {
        IovaRange::new(Iova(start), len).unwrap()
    }

    #[test]
    fn t05_range_over_two_touching_maps_is_reached() {
        let mut table = DmaTable::default();
        assert!(table.insert(range(0x1000, 0x1000), DmaMapFlags::READ_WRITE));
        assert!(table.insert(range(0x2000, 0x1000), DmaMapFlags::READ));
        assert_eq!(table.check(Iova(0x1ff0), 0x20, DmaMapFlags::READ), Ok(()));
        assert_eq!(
            table.check(Iova(0x1ff0), 0x20, DmaMapFlags::WRITE),
            Err(Errno::PERM)
        );
    }

    #[test]
    fn t04_range_past_the_end_of_a_map_is_refused() {
        let mut table = DmaTable::default();
        assert!(table.insert(range(0x1000, 0x1000), DmaMapFlags::READ_WRITE));
        for (address, count) in [(0x1fff, 2), (0xfff, 2), (0x2000, 1), (0, 1)] {
            assert_eq!(
                table.check(Iova(address), count, DmaMapFlags::READ),
                Err(Errno::FAULT)
            );
        }
    }

    #[test]
    fn dma_table_takes_no_overlap_and_removes_exactly() {
        let mut table = DmaTable::default();
        assert!(table.insert(range(0x1000, 0x2000), DmaMapFlags::READ));
        for (start, len) in [(0x1000, 0x2000), (0, 0x1001), (0x2fff, 1), (0, 0x10000)] {
            assert!(!table.insert(range(start, len), DmaMapFlags::READ));
        }
        table.remove(&range(0x1000, 0x1000));
        assert_eq!(table.len(), 1);
        table.remove(&range(0x1000, 0x2000));
        assert_eq!(table.len(), 0);
    }
}
