//! What one root port needs of one address space: the BARs behind it, packed, and what is reserved for later.

use std::cmp::Reverse;

use super::free_space::FreeSpace;
use super::{
    AddressRange, BarRequest, FunctionRequest, IO_WINDOW_STEP, MEMORY_WINDOW_STEP, PortRequest,
    Space, footprint, space_behind_port,
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
        let wanted = biggest_first(&port.functions, space);
        let step = step(space);
        let least = match space {
            Space::Io => port.reserve.io.unwrap_or(IO_WINDOW_STEP),
            Space::Memory32 => port.reserve.memory,
            Space::Memory64 => port.reserve.prefetchable,
        };
        let biggest = wanted.first().map_or(0, |(_, bar)| footprint(bar));
        // What is reserved is for a BAR as large as that, too, and a BAR is aligned to its size.
        let align = biggest.max(step).max(power_of_two_within(least));
        let mut end = 0u64;
        let mut bars = Vec::new();
        for (devfn, bar) in wanted {
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

/// Whether the decoders of one function fit into a window of a port, packed as [`Inside`] packs them. The error is the size of a
/// reserve that would hold them.
pub fn fit(
    function: &FunctionRequest,
    space: Space,
    window: Option<AddressRange>,
) -> Result<(), u64> {
    let wanted = biggest_first(std::slice::from_ref(function), space);
    let mut free = window.map(FreeSpace::new);
    let mut fits = |bar: &BarRequest| {
        let size = footprint(bar);
        free.as_mut()
            .is_some_and(|free| free.take(size, size).is_some())
    };
    if wanted.iter().all(|(_, bar)| fits(bar)) {
        return Ok(());
    }
    let needed = wanted
        .iter()
        .fold(0, |sum: u64, (_, bar)| sum.saturating_add(footprint(bar)));
    Err(needed
        .checked_next_multiple_of(step(space))
        .unwrap_or(u64::MAX))
}

/// Powers of two in this order lie without gaps, each aligned to its own size.
fn biggest_first(functions: &[FunctionRequest], space: Space) -> Vec<(u8, BarRequest)> {
    let mut bars: Vec<(u8, BarRequest)> = functions
        .iter()
        .flat_map(|function| function.bars.iter().map(|bar| (function.devfn, *bar)))
        .filter(|(_, bar)| space_behind_port(bar.kind) == space)
        .collect();
    bars.sort_by_key(|(devfn, bar)| (Reverse(footprint(bar)), *devfn, bar.index));
    bars
}

fn step(space: Space) -> u64 {
    match space {
        Space::Io => IO_WINDOW_STEP,
        Space::Memory32 | Space::Memory64 => MEMORY_WINDOW_STEP,
    }
}

/// The largest power of two that is not above `size`; 0 for 0.
fn power_of_two_within(size: u64) -> u64 {
    size.checked_ilog2().map_or(0, |power| 1 << power)
}
