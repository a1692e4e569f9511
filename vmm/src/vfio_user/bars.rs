//! Where the guest reaches a device's BARs: mapped areas as KVM memory slots, the rest through traps.
//!
//! Each BAR that decodes is registered as a trap as a whole; over the areas that the server lets us map lies a memory
//! slot, so the guest reaches those without an exit. If a slot goes away (the device is lost, off or in reset), the
//! trap below answers.
//! A BAR that the guest moves out of the PCI windows (over RAM, the APICs, ECAM) or onto another BAR does not decode
//! until it is moved again: nothing else can be harmed by it.
//! Mapped memory is never read or written by this process (`kvm/device_mapping.rs`).
//! Limits: [`protocol::limits::MAX_SPARSE_AREAS`] areas per BAR.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::RegionInfo;
use tracing::Span;

use super::bar_file::{self, BarFileError};
use super::doorbells::{self, Doorbell, Wired};
use super::notices::Notices;
use crate::address_space::{AddressRange, AddressSpaces, Trap};
use crate::kvm::{DeviceMapping, SlotId, Vm};
use crate::one_line::one_line;
use crate::pci::PciWindows;
use crate::pci::bar::Decoded;

const PAGE_BYTES: u64 = 4096;

/// An area of a BAR, mapped into this process for KVM.
#[derive(Debug)]
pub struct Area {
    bar: u8,
    offset: u64,
    mapping: Arc<DeviceMapping>,
}

/// An area, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedArea {
    /// The BAR.
    pub bar: u8,
    /// Where in the BAR it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where the guest reaches it without an exit now, if it does.
    pub gpa: Option<u64>,
}

/// An area cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The server says that the region can be mapped, but sends nothing to map.
    #[error("{0} is said to be mappable, but the server sent no file descriptor for it")]
    NoDescriptor(protocol::RegionIndex),
    /// The file is not one that a guest may wait for.
    #[error("the file of {region} cannot be mapped")]
    File {
        /// The region.
        region: protocol::RegionIndex,
        /// Why.
        #[source]
        source: BarFileError,
    },
    /// The file ends before the area does.
    #[error("the file of {region} ends before its area at {offset:#x} with {len:#x} bytes")]
    TooShort {
        /// The region.
        region: protocol::RegionIndex,
        /// Where the area starts.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// The kernel refused.
    #[error("map the area at {offset:#x} with {len:#x} bytes of {region}")]
    Map {
        /// The region.
        region: protocol::RegionIndex,
        /// Where the area starts.
        offset: u64,
        /// Its length.
        len: u64,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// Maps what the server offers of one BAR, but for the pages of `reserved`, and closes the descriptor.
pub fn map_areas(region: RegionInfo, reserved: &[Range<u64>]) -> Result<Vec<Area>, MapError> {
    let index = region.index;
    let [bar, ..] = index.0.to_le_bytes();
    let fd = region.fd.ok_or(MapError::NoDescriptor(index))?;
    let size = bar_file::end_of(fd.as_fd()).map_err(|source| MapError::File {
        region: index,
        source,
    })?;
    let mut mapped = Vec::new();
    for area in &region.areas {
        for (offset, len) in without_pages(area.offset, area.size, reserved) {
            let start = region.offset.checked_add(offset);
            let end = start.and_then(|start| start.checked_add(len));
            let (Some(start), Some(_)) = (start, end.filter(|end| *end <= size)) else {
                return Err(MapError::TooShort {
                    region: index,
                    offset,
                    len,
                });
            };
            let mapping =
                DeviceMapping::new(fd.as_fd(), start, len).map_err(|source| MapError::Map {
                    region: index,
                    offset,
                    len,
                    source,
                })?;
            mapped.push(Area {
                bar,
                offset,
                mapping: Arc::new(mapping),
            });
        }
    }
    Ok(mapped)
}

/// The parts of `offset`+`len` that share no page with a reserved range.
fn without_pages(offset: u64, len: u64, reserved: &[Range<u64>]) -> Vec<(u64, u64)> {
    let mut parts = vec![(offset, offset.saturating_add(len))];
    for range in reserved {
        let start = range.start - range.start % PAGE_BYTES;
        let end = range
            .end
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(u64::MAX);
        parts = parts
            .into_iter()
            .flat_map(|(from, to)| [(from, to.min(start)), (from.max(end), to)])
            .filter(|(from, to)| from < to)
            .collect();
    }
    parts
        .into_iter()
        .map(|(from, to)| (from, to - from))
        .collect()
}

/// The BARs of one device in the guest's address spaces.
#[derive(Debug)]
pub struct BarMap {
    span: Span,
    notices: Notices,
    vm: Arc<Vm>,
    spaces: Arc<AddressSpaces>,
    windows: PciWindows,
    areas: Vec<Area>,
    doorbells: Vec<Doorbell>,
    live: Vec<Live>,
}

#[derive(Debug)]
struct Live {
    decoded: Decoded,
    /// Each with the offset of its area in the BAR.
    slots: Vec<(u64, SlotId)>,
    doorbells: Vec<Wired>,
}

impl BarMap {
    /// Nothing is mapped yet.
    pub fn new(
        span: Span,
        vm: Arc<Vm>,
        spaces: Arc<AddressSpaces>,
        windows: PciWindows,
        areas: Vec<Area>,
    ) -> Self {
        Self {
            notices: Notices::new(span.clone()),
            span,
            vm,
            spaces,
            windows,
            areas,
            doorbells: Vec::new(),
            live: Vec::new(),
        }
    }

    /// What rings in them.
    pub(super) fn with_doorbells(mut self, doorbells: Vec<Doorbell>) -> Self {
        self.doorbells = doorbells;
        self
    }

    /// Takes away every BAR that is not in `wanted` as it is there. When this returns, no vCPU reaches it.
    pub fn retain(&mut self, wanted: &[Decoded]) {
        let (keep, gone) = std::mem::take(&mut self.live)
            .into_iter()
            .partition(|live| wanted.contains(&live.decoded));
        self.live = keep;
        let gone: Vec<Live> = gone;
        for live in gone {
            doorbells::unwire(&self.vm, &live.doorbells, &self.notices);
            self.unmap(&live.slots);
            let space = if live.decoded.io {
                &self.spaces.pio
            } else {
                &self.spaces.mmio
            };
            space.remove(live.decoded.range.start);
        }
    }

    /// Makes the guest reach exactly the BARs of `wanted`, as far as they are where BARs may be.
    pub fn apply(&mut self, wanted: &[Decoded], trap: impl Fn(u8) -> Arc<dyn Trap>) {
        self.retain(wanted);
        for decoded in wanted {
            if self.live.iter().any(|live| live.decoded == *decoded) {
                continue;
            }
            let (bar, range) = (decoded.index, decoded.range);
            if !self.admits(decoded) {
                tracing::debug!(
                    parent: &self.span,
                    bar,
                    start = range.start,
                    "BAR outside the PCI windows: not decoded"
                );
                continue;
            }
            let space = if decoded.io {
                &self.spaces.pio
            } else {
                &self.spaces.mmio
            };
            if space.insert(range, trap(bar)).is_err() {
                tracing::debug!(
                    parent: &self.span,
                    bar,
                    start = range.start,
                    "BAR over another BAR: not decoded"
                );
                continue;
            }
            let slots = self.map(decoded);
            let doorbells = doorbells::wire(&self.vm, &self.doorbells, decoded, &self.notices);
            self.live.push(Live {
                decoded: *decoded,
                slots,
                doorbells,
            });
        }
    }

    /// Takes the memory slots away, but not the traps below them. True if there were any.
    pub fn unmap_slots(&mut self, gpa: Option<u64>) -> bool {
        let mut any = false;
        for index in 0..self.live.len() {
            let live = &mut self.live[index];
            let Decoded { range, .. } = live.decoded;
            if gpa.is_some_and(|gpa| {
                gpa.checked_sub(range.start)
                    .is_none_or(|at| at >= range.len)
            }) {
                continue;
            }
            let slots = std::mem::take(&mut live.slots);
            any |= !slots.is_empty();
            self.unmap(&slots);
        }
        any
    }

    /// Takes everything away. The caller drops what it gets, without holding the lock of this: that unmaps the device from this
    /// process, and where its server is gone the kernel may then reset the device, which takes long.
    #[must_use]
    pub fn release(&mut self) -> Vec<Area> {
        self.retain(&[]);
        self.doorbells.clear();
        std::mem::take(&mut self.areas)
    }

    /// Every area that is mapped, and where the guest reaches it.
    pub fn mapped(&self) -> Vec<MappedArea> {
        self.areas.iter().map(|area| self.describe(area)).collect()
    }

    fn describe(&self, area: &Area) -> MappedArea {
        let live = self.live.iter().find(|live| live.decoded.index == area.bar);
        let has_slot = |live: &&Live| live.slots.iter().any(|(offset, _)| *offset == area.offset);
        MappedArea {
            bar: area.bar,
            offset: area.offset,
            len: area.mapping.len_bytes(),
            gpa: live
                .filter(has_slot)
                .map(|live| live.decoded.range.start + area.offset),
        }
    }

    fn admits(&self, decoded: &Decoded) -> bool {
        let windows = if decoded.io {
            vec![self.windows.pio]
        } else {
            vec![self.windows.mmio32, self.windows.mmio64]
        };
        windows.iter().any(|window| holds(*window, decoded.range))
    }

    fn map(&self, decoded: &Decoded) -> Vec<(u64, SlotId)> {
        let mut slots = Vec::new();
        for area in self.areas.iter().filter(|area| area.bar == decoded.index) {
            let gpa = decoded.range.start + area.offset;
            match self.vm.memory_slots().map_device(
                gpa,
                Arc::clone(&area.mapping),
                0,
                area.mapping.len_bytes(),
            ) {
                Ok(slot) => slots.push((area.offset, slot)),
                Err(error) => self.notices.failed("a BAR area stays trapped", &error),
            }
        }
        slots
    }

    fn unmap(&self, slots: &[(u64, SlotId)]) {
        for (_, slot) in slots {
            if let Err(error) = self.vm.memory_slots().unmap(*slot) {
                tracing::error!(
                    parent: &self.span,
                    error = one_line(&error),
                    "BAR area not taken out of the guest"
                );
            }
        }
    }
}

fn holds(window: AddressRange, range: AddressRange) -> bool {
    range
        .start
        .checked_sub(window.start)
        .is_some_and(|at| at <= window.len && range.len <= window.len - at)
}

#[cfg(test)]
mod tests;
