//! Guest accesses to configuration space: by memory (ECAM) and by ports 0xcf8 and 0xcfc.
//!
//! Spec: PCI Express Base 4.0 §7.2.2 (ECAM); PCI Local Bus 3.0 §3.2.2.3.2 (configuration mechanism 1).
//! Accesses of any width and alignment are split into aligned pieces of 1, 2 or 4 bytes.
//! Not here: which function is meant, and what it does (`root.rs`).

use std::sync::Weak;
use std::sync::atomic::{AtomicU32, Ordering};

use super::root::PciHost;
use crate::address_space::{AddressRange, Trap};

/// Ports of configuration mechanism 1: the address register and the data register.
pub(super) const PORTS: AddressRange = AddressRange {
    start: 0xcf8,
    len: 8,
};
/// Where the data register starts in [`PORTS`].
const DATA_OFFSET: u64 = 4;
const ADDRESS_ENABLE: u32 = 1 << 31;
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// The memory window: bus, device and function are in the address.
pub(super) struct Ecam(pub(super) Weak<PciHost>);

impl Trap for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let Some(host) = self.0.upgrade() else {
            return data.fill(0xff);
        };
        for piece in pieces(offset, data.len()) {
            let (bus, devfn, register) = ecam_address(offset + piece.start as u64);
            host.read(bus, devfn, register, &mut data[piece]);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(host) = self.0.upgrade() else { return };
        for piece in pieces(offset, data.len()) {
            let (bus, devfn, register) = ecam_address(offset + piece.start as u64);
            host.write(bus, devfn, register, &data[piece]);
        }
    }
}

fn ecam_address(offset: u64) -> (u8, u8, u16) {
    let [low, middle, bus_and_devfn, high, ..] = offset.to_le_bytes();
    // Bits 0 to 11 register, 12 to 19 devfn, 20 to 27 bus.
    let register = u16::from_le_bytes([low, middle & 0x0f]);
    (
        high << 4 | bus_and_devfn >> 4,
        bus_and_devfn << 4 | middle >> 4,
        register,
    )
}

/// Ports 0xcf8 to 0xcff. The board's reset port 0xcf9 is found before this one.
pub(super) struct Ports {
    host: Weak<PciHost>,
    address: AtomicU32,
}

impl Ports {
    pub(super) fn new(host: Weak<PciHost>) -> Self {
        Self {
            host,
            address: AtomicU32::new(0),
        }
    }

    /// Bus, devfn and register that an access of the data register means.
    fn data_register(&self, offset: u64) -> Option<(u8, u8, u16)> {
        let address = self.address.load(Ordering::Acquire);
        let [register, devfn, bus, _] = address.to_le_bytes();
        let within = u16::try_from(offset.checked_sub(DATA_OFFSET)?).ok()?;
        (address & ADDRESS_ENABLE != 0).then_some((bus, devfn, u16::from(register & 0xfc) + within))
    }
}

impl Trap for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0
            && let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data)
        {
            *data = self.address.load(Ordering::Acquire).to_le_bytes();
            return;
        }
        let Some(host) = self.host.upgrade() else {
            return;
        };
        for piece in pieces(offset, data.len()) {
            if let Some((bus, devfn, register)) = self.data_register(offset + piece.start as u64) {
                host.read(bus, devfn, register, &mut data[piece]);
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0
            && let Ok(address) = <[u8; 4]>::try_from(data)
        {
            self.address.store(
                u32::from_le_bytes(address) & ADDRESS_WRITABLE,
                Ordering::Release,
            );
            return;
        }
        let Some(host) = self.host.upgrade() else {
            return;
        };
        for piece in pieces(offset, data.len()) {
            if let Some((bus, devfn, register)) = self.data_register(offset + piece.start as u64) {
                host.write(bus, devfn, register, &data[piece]);
            }
        }
    }
}

/// Splits an access into aligned pieces of at most four bytes, as ranges of its data.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = len.checked_sub(start).filter(|rest| *rest > 0)?;
        let address = offset + start as u64;
        let width = [4usize, 2, 1]
            .into_iter()
            .find(|width| *width <= rest && address.is_multiple_of(*width as u64))?;
        let piece = start..start + width;
        start += width;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecam_address_splits_into_bus_devfn_and_register() {
        assert_eq!(ecam_address(0x0ab1_9123), (0xab, 0x19, 0x123));
    }

    #[test]
    fn pieces_are_aligned_and_cover_the_access() {
        assert_eq!(pieces(0x40, 8).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(pieces(0x43, 5).collect::<Vec<_>>(), [0..1, 1..5]);
        assert_eq!(pieces(0x41, 1).collect::<Vec<_>>(), vec![0..1]);
    }
}
