//! Who answers a trapped guest access: one map of address ranges for memory, one for ports.
//!
//! A lookup clones the `Arc` of the trap and drops the lock before it calls it, so that a trap may take long (a
//! vfio-user round trip) or change the map (a BAR move) without blocking the other vCPUs.
//!
//! Not here: guest RAM and mapped BARs. They are KVM memory slots and never trap.
//!
//! Rules: ranges never overlap. An access belongs to the range that holds its first byte; bytes past the end of that
//! range read as ones and are dropped on write, so a trap never sees an access that leaves its range. Where nothing
//! answers, reads give all ones and writes are dropped, as on a PCI bus.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

#[cfg(test)]
mod tests;

/// A device register block that answers trapped accesses. Offsets are relative to the start of its range.
pub trait Trap: Send + Sync {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes what the guest wrote at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// `len` addresses from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// First address.
    pub start: u64,
    /// Number of addresses; an empty range is refused by [`AddressSpace::insert`].
    pub len: u64,
}

/// The range is empty, passes the end of the address space or meets one that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Trap addresses {:#x}+{:#x}: the range is empty, too long or already taken", .wanted.start, .wanted.len)]
pub struct Overlap {
    /// The range that was asked for.
    pub wanted: AddressRange,
}

/// The two address spaces of the machine.
#[derive(Debug, Default)]
pub struct AddressSpaces {
    /// Guest physical memory.
    pub mmio: AddressSpace,
    /// x86 ports.
    pub pio: AddressSpace,
}

/// A map from address ranges to traps.
#[derive(Default)]
pub struct AddressSpace {
    map: RwLock<Map>,
}

#[derive(Default)]
struct Map {
    ranges: BTreeMap<u64, Entry>,
    exact: BTreeMap<(u64, usize), Arc<dyn Trap>>,
}

#[derive(Clone)]
struct Entry {
    last: u64,
    trap: Arc<dyn Trap>,
}

/// A trap found for an access: where in its range the access starts, and how many bytes of it belong to the range.
struct Hit {
    trap: Arc<dyn Trap>,
    offset: u64,
    len: usize,
}

impl AddressSpace {
    /// Lets `trap` answer for `range`.
    pub fn insert(&self, range: AddressRange, trap: Arc<dyn Trap>) -> Result<(), Overlap> {
        let overlap = Overlap { wanted: range };
        let last = range
            .len
            .checked_sub(1)
            .and_then(|more| range.start.checked_add(more))
            .ok_or(overlap)?;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if map
            .ranges
            .range(..=last)
            .next_back()
            .is_some_and(|(_, entry)| entry.last >= range.start)
        {
            return Err(overlap);
        }
        map.ranges.insert(range.start, Entry { last, trap });
        Ok(())
    }

    /// Lets `trap` answer accesses of exactly this address and width, before any range is looked at.
    ///
    /// The PC needs it once: the reset control register at port 0xcf9 is a byte inside the dword 0xcf8.
    pub fn insert_exact(&self, start: u64, width: usize, trap: Arc<dyn Trap>) {
        self.map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .exact
            .insert((start, width), trap);
    }

    /// Forgets the range that begins at `start`, if there is one.
    pub fn remove(&self, start: u64) {
        self.map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .ranges
            .remove(&start);
    }

    /// A guest read.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some(hit) = self.find(address, data.len()) else {
            data.fill(0xff);
            return;
        };
        let (inside, outside) = data.split_at_mut(hit.len);
        hit.trap.read(hit.offset, inside);
        outside.fill(0xff);
    }

    /// A guest write.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some(hit) = self.find(address, data.len()) {
            hit.trap.write(hit.offset, data.split_at(hit.len).0);
        }
    }

    fn find(&self, address: u64, width: usize) -> Option<Hit> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(trap) = map.exact.get(&(address, width)) {
            return Some(Hit {
                trap: Arc::clone(trap),
                offset: 0,
                len: width,
            });
        }
        let (start, entry) = map.ranges.range(..=address).next_back()?;
        let left = entry.last.checked_sub(address)?;
        let len = usize::try_from(left).map_or(width, |left| width.min(left.saturating_add(1)));
        Some(Hit {
            trap: Arc::clone(&entry.trap),
            offset: address - start,
            len,
        })
    }
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list()
            .entries(map.ranges.iter().map(|(start, entry)| (start, entry.last)))
            .finish()
    }
}
