//! Which parts of each region a client may mmap, and where the region is in the device fd.
//!
//! Kernel: VFIO_DEVICE_GET_REGION_INFO with the capabilities SPARSE_MMAP and MSIX_MAPPABLE.
//! Never exported: a page with a byte of the MSI-X table or pending bits in it (a store there would land in the
//! device and re-point an interrupt past SET_IRQS); I/O BARs, the ROM and BARs smaller than a page (the kernel may
//! map more than the BAR). A page that mixes registers and table stays trapped.
//! The fd that goes to the client is a duplicate of the device fd: it carries the whole authority over the device, and
//! the client is trusted to close it after mmap. With `--bar-mmap off` there are no areas, and so no fd for the client.
//! Limits: at most `MAX_SPARSE_AREAS` areas per region, the rest stays trapped.

use std::io;
use std::os::fd::BorrowedFd;

use protocol::SparseArea;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use super::capabilities::{BarPlace, MsixPlaces};
use super::ioctls;

/// Areas that one region may have. PCI drivers of today give at most a handful.
const MAX_SPARSE_AREAS: usize = 64;
/// Capabilities that one region info may have: a bound for walking the chain.
const MAX_CAPABILITIES: usize = 16;

/// What the kernel says about one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelRegion {
    /// Size in bytes; 0 when there is no such region.
    pub(super) size: u64,
    /// Where it is in the device fd.
    pub(super) offset: u64,
    /// It can be read.
    pub(super) readable: bool,
    /// It can be written.
    pub(super) writable: bool,
    /// The parts that the kernel lets us mmap, before our own rules.
    pub(super) kernel_areas: Vec<SparseArea>,
}

impl KernelRegion {
    /// Asks the kernel. A region that it does not know has size 0.
    pub(super) fn query(device: BorrowedFd<'_>, index: u32) -> io::Result<KernelRegion> {
        let (info, answer) = match ioctls::region_info(device, index) {
            Ok(found) => found,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                return Ok(KernelRegion::absent());
            }
            Err(error) => return Err(error),
        };
        let has = |flag: u32| info.flags & flag != 0;
        let kernel_areas = if !has(VFIO_REGION_INFO_FLAG_MMAP) {
            Vec::new()
        } else if has(VFIO_REGION_INFO_FLAG_CAPS) {
            sparse_areas(&answer, info.cap_offset).unwrap_or_else(|| whole(info.size))
        } else {
            whole(info.size)
        };
        Ok(KernelRegion {
            size: info.size,
            offset: info.offset,
            readable: has(VFIO_REGION_INFO_FLAG_READ),
            writable: has(VFIO_REGION_INFO_FLAG_WRITE),
            kernel_areas,
        })
    }

    fn absent() -> KernelRegion {
        KernelRegion {
            size: 0,
            offset: 0,
            readable: false,
            writable: false,
            kernel_areas: Vec::new(),
        }
    }
}

fn whole(size: u64) -> Vec<SparseArea> {
    vec![SparseArea { offset: 0, size }]
}

/// The areas of the SPARSE_MMAP capability in a region info answer; `None` if there is none.
fn sparse_areas(answer: &[u8], first: u32) -> Option<Vec<SparseArea>> {
    let mut offset = usize::try_from(first).ok()?;
    for _ in 0..MAX_CAPABILITIES {
        // vfio_info_cap_header: id u16, version u16, next u32.
        let capability = answer.get(offset..).filter(|_| offset != 0)?;
        if u32::from(u16::from_ne_bytes(take(capability, 0)?)) == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            return listed_areas(capability);
        }
        offset = usize::try_from(u32::from_ne_bytes(take(capability, 4)?)).ok()?;
    }
    None
}

/// nr_areas u32 at 8, reserved u32, then offset u64 and size u64 of each.
fn listed_areas(capability: &[u8]) -> Option<Vec<SparseArea>> {
    let count = usize::try_from(u32::from_ne_bytes(take(capability, 8)?))
        .ok()?
        .min(MAX_SPARSE_AREAS);
    let list = capability.get(16..)?.chunks_exact(16).take(count);
    list.map(|area| {
        Some(SparseArea {
            offset: u64::from_ne_bytes(take(area, 0)?),
            size: u64::from_ne_bytes(take(area, 8)?),
        })
    })
    .collect()
}

fn take<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The parts of BAR `bar` that a client may mmap: page aligned, ascending, without MSI-X table and pending bits.
pub(super) fn mappable_areas(
    bar: u32,
    region: &KernelRegion,
    msix: Option<MsixPlaces>,
    page: u64,
) -> Vec<SparseArea> {
    if region.size < page {
        return Vec::new();
    }
    let mut spans: Vec<Span> = region
        .kernel_areas
        .iter()
        .filter_map(|area| Span::inside(*area, region.size, page))
        .collect();
    spans.sort_by_key(|span| span.start);
    let mut taken = 0;
    for span in &mut spans {
        span.start = span.start.max(taken);
        taken = taken.max(span.end);
    }
    let places = msix.map_or_else(Vec::new, |msix| vec![msix.table, msix.pba]);
    for place in places.into_iter().filter(|place| place.bar == bar) {
        let hole = Span::around(place, page);
        spans = spans
            .into_iter()
            .flat_map(|span| span.without(hole))
            .collect();
    }
    spans
        .iter()
        .filter_map(Span::area)
        .take(MAX_SPARSE_AREAS)
        .collect()
}

/// Bytes `start..end` of a region, both multiples of the page size.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// The whole pages of `area` that are inside the region.
    fn inside(area: SparseArea, region_size: u64, page: u64) -> Option<Span> {
        let end = area.offset.checked_add(area.size)?.min(region_size);
        Some(Span {
            start: area.offset.checked_next_multiple_of(page)?,
            end: round_down(end, page),
        })
    }

    /// Every page that has a byte of `place`.
    fn around(place: BarPlace, page: u64) -> Span {
        let end = place.offset.saturating_add(place.len);
        Span {
            start: round_down(place.offset, page),
            end: end.checked_next_multiple_of(page).unwrap_or(u64::MAX),
        }
    }

    fn without(self, hole: Span) -> [Span; 2] {
        let before = Span {
            start: self.start,
            end: self.end.min(hole.start),
        };
        let after = Span {
            start: self.start.max(hole.end),
            end: self.end,
        };
        [before, after]
    }

    fn area(&self) -> Option<SparseArea> {
        let size = self.end.checked_sub(self.start).filter(|size| *size > 0)?;
        Some(SparseArea {
            offset: self.start,
            size,
        })
    }
}

fn round_down(value: u64, page: u64) -> u64 {
    value.saturating_sub(value.checked_rem(page).unwrap_or(0))
}

#[cfg(test)]
mod tests;
