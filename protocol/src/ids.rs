//! Numbers of the vfio-user protocol that must not be swapped: each has a type of its own.
//!
//! Spec: vfio-user, "Header", "VFIO_USER_DEVICE_GET_REGION_INFO", "VFIO_USER_DEVICE_GET_IRQ_INFO";
//! index values are those of Linux VFIO PCI.
//! Pure data. No range checks against a device: only the side that owns the device knows its tables.

use std::fmt;

/// The id that a sender chose for a message and that the reply echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u16);

/// Which region of a device: BARs, ROM, config space, VGA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIndex(pub u32);

impl RegionIndex {
    /// Base address register 0.
    pub const BAR0: Self = Self(0);
    /// Base address register 1.
    pub const BAR1: Self = Self(1);
    /// Base address register 2.
    pub const BAR2: Self = Self(2);
    /// Base address register 3.
    pub const BAR3: Self = Self(3);
    /// Base address register 4.
    pub const BAR4: Self = Self(4);
    /// Base address register 5.
    pub const BAR5: Self = Self(5);
    /// Expansion ROM.
    pub const ROM: Self = Self(6);
    /// PCI configuration space.
    pub const CONFIG: Self = Self(7);
    /// Legacy VGA ranges.
    pub const VGA: Self = Self(8);

    /// True for BAR0 to BAR5.
    #[must_use]
    pub fn is_bar(self) -> bool {
        self.0 <= Self::BAR5.0
    }
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            bar if bar.is_bar() => write!(f, "BAR{}", bar.0),
            Self::ROM => f.write_str("ROM"),
            Self::CONFIG => f.write_str("CONFIG"),
            Self::VGA => f.write_str("VGA"),
            Self(other) => write!(f, "region {other}"),
        }
    }
}

/// Which kind of interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IrqIndex(pub u32);

impl IrqIndex {
    /// The INTx pin.
    pub const INTX: Self = Self(0);
    /// MSI vectors.
    pub const MSI: Self = Self(1);
    /// MSI-X vectors.
    pub const MSIX: Self = Self(2);
    /// PCIe error notification.
    pub const ERR: Self = Self(3);
    /// The host asks for the device back.
    pub const REQ: Self = Self(4);
}

impl fmt::Display for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INTX => f.write_str("INTx"),
            Self::MSI => f.write_str("MSI"),
            Self::MSIX => f.write_str("MSI-X"),
            Self::ERR => f.write_str("ERR"),
            Self::REQ => f.write_str("REQ"),
            Self(other) => write!(f, "irq index {other}"),
        }
    }
}

/// An address as the device sees it (I/O virtual address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Iova(pub u64);

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range of device addresses that is not empty and whose end, excluded, is at most `u64::MAX`.
///
/// A range that ends at exactly 2^64 is refused: no platform lets a device use the last page, and so
/// `end()` always fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IovaRange {
    start: u64,
    end: u64,
}

/// Why an address and a length make no [`IovaRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IovaRangeError {
    /// The length is 0.
    #[error("the range at {start} is empty")]
    Empty {
        /// First address.
        start: Iova,
    },
    /// The end does not fit in 64 bits.
    #[error("the range at {start} with {len:#x} bytes runs past the end of the address space")]
    Wraps {
        /// First address.
        start: Iova,
        /// Bytes asked for.
        len: u64,
    },
}

impl IovaRange {
    /// The range of `len` bytes from `start`.
    ///
    /// # Errors
    /// The length is 0 or the end does not fit in 64 bits.
    pub fn new(start: Iova, len: u64) -> Result<Self, IovaRangeError> {
        if len == 0 {
            return Err(IovaRangeError::Empty { start });
        }
        match start.0.checked_add(len) {
            Some(end) => Ok(Self {
                start: start.0,
                end,
            }),
            None => Err(IovaRangeError::Wraps { start, len }),
        }
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> Iova {
        Iova(self.start)
    }

    /// Bytes; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// First address behind the range.
    #[must_use]
    pub fn end(&self) -> Iova {
        Iova(self.end)
    }

    /// True when the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// True when all of `other` lies inside.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iova_range_empty_is_refused() {
        assert_eq!(
            IovaRange::new(Iova(5), 0),
            Err(IovaRangeError::Empty { start: Iova(5) })
        );
    }

    #[test]
    fn iova_range_that_reaches_2_to_the_64_is_refused() {
        for (start, len) in [(u64::MAX, 1), (1 << 63, 1 << 63), (1, u64::MAX)] {
            let start = Iova(start);
            assert_eq!(
                IovaRange::new(start, len),
                Err(IovaRangeError::Wraps { start, len })
            );
        }
    }

    #[test]
    fn iova_range_touching_ranges_do_not_overlap() {
        let low = IovaRange::new(Iova(0), 0x1000).unwrap();
        let high = IovaRange::new(Iova(0x1000), 0x1000).unwrap();
        let both = IovaRange::new(Iova(0), 0x2000).unwrap();
        assert!(!low.overlaps(&high) && !high.overlaps(&low));
        assert!(both.overlaps(&low) && both.contains(&high) && !low.contains(&both));
        assert_eq!((low.end(), low.len()), (Iova(0x1000), 0x1000));
    }

    #[test]
    fn region_index_names_are_those_of_the_spec() {
        let names: Vec<String> = (0..10).map(|n| RegionIndex(n).to_string()).collect();
        assert_eq!(
            names,
            [
                "BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "CONFIG", "VGA", "region 9"
            ]
        );
    }
}
