//! What one root port needs of one address space: the BARs behind it, packed, and what is reserved for later.

use std::cmp::Reverse;

use super::{
    BarRequest, IO_WINDOW_STEP, MEMORY_WINDOW_STEP, PortRequest, Space, footprint,
    space_behind_port,
};

/// What lies behind one port in one address space, packed from offset zero.
pub(super) struct Inside {
    pub(super) id: String,
    pub(super) bars: Vec<(u8, BarRequest, u64)>,
    pub(super) size: u64,
    step: u64,
    pub(super) align: u64,
}

impl Inside {
    pub(super) fn of(port: &PortRequest, space: Space) -> Inside {
        let mut wanted: Vec<(u8, BarRequest)> = port
            .functions
            .iter()
            .flat_map(|function| function.bars.iter().map(|bar| (function.devfn, *bar)))
            .filter(|(_, bar)| space_behind_port(bar.kind) == space)
            .collect();
        wanted.sort_by_key(|(devfn, bar)| (Reverse(footprint(bar)), *devfn, bar.index));
        let (step, least) = match space {
            Space::Io => (IO_WINDOW_STEP, port.reserve.io),
            Space::Memory32 => (MEMORY_WINDOW_STEP, port.reserve.memory),
            Space::Memory64 => (MEMORY_WINDOW_STEP, port.reserve.prefetchable),
        };
        let align = wanted
            .first()
            .map_or(step, |(_, bar)| footprint(bar).max(step));
        let mut end = 0u64;
        let mut bars = Vec::new();
        for (devfn, bar) in wanted {
            // Powers of two, biggest first: each offset is aligned to its own size.
            bars.push((devfn, bar, end));
            end = end.saturating_add(footprint(&bar));
        }
        let size = end
            .max(least)
            .checked_next_multiple_of(step)
            .unwrap_or(u64::MAX);
        Inside {
            id: port.id.clone(),
            bars,
            size,
            step,
            align,
        }
    }

    /// Only what is there already.
    pub(super) fn without_reserve(self) -> Inside {
        let used = |(_, bar, offset): &(u8, BarRequest, u64)| offset.saturating_add(footprint(bar));
        let end = self.bars.iter().map(used).max().unwrap_or(0);
        let size = end.checked_next_multiple_of(self.step).unwrap_or(u64::MAX);
        Inside { size, ..self }
    }
}
