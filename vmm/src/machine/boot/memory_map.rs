//! The memory map that the kernel is given, in both protocols: e820 types 1 (RAM) and 2 (reserved).

use crate::address_space::AddressRange;
use crate::memory::layout::{self, RamRegion};

/// e820 and PVH type of usable memory.
pub(super) const RAM: u32 = 1;
/// e820 and PVH type of memory that no driver may take.
pub(super) const RESERVED: u32 = 2;
/// Conventional memory ends here; the tables are above.
const LEGACY_HOLE: AddressRange = AddressRange {
    start: 0xa_0000,
    len: 0x6_0000,
};

/// One piece of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) kind: u32,
}

/// RAM without the hole below 1 MiB, the hole, and ECAM, which Linux takes only if it is reserved.
pub(super) fn pieces(ram: &[RamRegion]) -> Vec<Piece> {
    let hole_end = LEGACY_HOLE.start + LEGACY_HOLE.len;
    let mut pieces = Vec::new();
    for region in ram {
        if region.gpa == 0 {
            pieces.push(Piece {
                start: 0,
                len: LEGACY_HOLE.start,
                kind: RAM,
            });
            pieces.push(Piece {
                start: LEGACY_HOLE.start,
                len: LEGACY_HOLE.len,
                kind: RESERVED,
            });
            pieces.push(Piece {
                start: hole_end,
                len: region.len.saturating_sub(hole_end),
                kind: RAM,
            });
        } else {
            pieces.push(Piece {
                start: region.gpa,
                len: region.len,
                kind: RAM,
            });
        }
    }
    pieces.push(Piece {
        start: layout::ECAM.start,
        len: layout::ECAM.len,
        kind: RESERVED,
    });
    pieces.sort_by_key(|piece| piece.start);
    pieces
}
