//! Trapped accesses of a BAR: the MSI-X table and its pending bits are answered here, the rest by the device.
//!
//! An access is split where the table and the pending bits begin and end. No lock is held across a request.

use std::sync::Weak;

use protocol::RegionIndex;

use super::{VfioUserFunction, lock};
use crate::address_space::Trap;
use crate::pci::bar::ROM;
use crate::vfio_user::describe::{pending_bytes, table_bytes};
use crate::vfio_user::msix;

/// Answers trapped accesses of one BAR.
pub(super) struct BarTrap {
    pub(super) function: Weak<VfioUserFunction>,
    pub(super) bar: u8,
}

impl Trap for BarTrap {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self
            .function
            .upgrade()
            .filter(|function| !function.is_lost())
        {
            Some(function) => {
                function.timed(|| function.bar_read(self.bar, offset, data));
                function.notice_loss();
            }
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(function) = self
            .function
            .upgrade()
            .filter(|function| !function.is_lost())
        {
            function.timed(|| function.bar_write(self.bar, offset, data));
        }
    }
}

impl VfioUserFunction {
    /// A guest access of a BAR, split where the MSI-X table and its pending bits begin and end.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (part, end) = self.part(bar, at);
            let len = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (piece, more) = rest.split_at_mut(len);
            match part {
                Part::Device => self.region_read(RegionIndex(u32::from(bar)), at, piece),
                Part::Table(start) => lock(&self.table).read(at - start, piece),
                Part::Pending(start) => {
                    let interrupts = lock(&self.interrupts);
                    msix::read_pending(at - start, piece, |vector| interrupts.pending(vector));
                }
            }
            (at, rest) = (end, more);
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar == ROM {
            // Read-only memory: the write goes nowhere.
            return;
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (part, end) = self.part(bar, at);
            let len = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (piece, more) = rest.split_at(len);
            match part {
                Part::Device => {
                    let region = RegionIndex(u32::from(bar));
                    let result = self.client.region_write(region, at, piece);
                    self.sent("a write of a BAR failed", result);
                }
                Part::Table(start) => {
                    let touched = lock(&self.table).write(at - start, piece);
                    self.sync_vectors(touched);
                }
                // Pending bits are read-only.
                Part::Pending(_) => {}
            }
            (at, rest) = (end, more);
        }
        self.notice_loss();
    }

    /// Who answers at `offset` of a BAR, and where that ends.
    fn part(&self, bar: u8, offset: u64) -> (Part, u64) {
        let Some(layout) = &self.msix else {
            return (Part::Device, u64::MAX);
        };
        let mut end = u64::MAX;
        let places = [
            (layout.table, table_bytes(layout), true),
            (layout.pending, pending_bytes(layout), false),
        ];
        for (place, len, is_table) in places {
            if place.bar != bar {
                continue;
            }
            let (start, stop) = (place.offset, place.offset + len);
            if (start..stop).contains(&offset) {
                return (
                    if is_table {
                        Part::Table(start)
                    } else {
                        Part::Pending(start)
                    },
                    stop,
                );
            }
            if start > offset {
                end = end.min(start);
            }
        }
        (Part::Device, end)
    }
}

/// Who answers in a BAR; with where the table or the pending bits start.
enum Part {
    Device,
    Table(u64),
    Pending(u64),
}
