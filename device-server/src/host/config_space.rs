//! What a device's configuration space says of its interrupts and of access control (ACS).
//!
//! PCI Local Bus 3.0 §6.7 (capability list), §6.8 (MSI, MSI-X); PCI Express Base, Extended Capabilities (ACS). sysfs
//! shows users other than root only the first 64 bytes. Lists are followed for at most as many steps as fit the space.

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
const ID_MSI: u8 = 0x05;
const ID_MSIX: u8 = 0x11;
const MAX_CAPABILITIES: usize = 48;
const EXTENDED_START: usize = 0x100;
const EXTENDED_ID_ACS: u32 = 0x000d;
const MAX_EXTENDED: usize = 960;
/// Source validation, request redirect, completion redirect, upstream forwarding: what Linux asks of a bridge before it
/// separates what is below it.
const ACS_ISOLATES: u16 = 0b1_1101;

/// Interrupts that a device can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Interrupts {
    /// It has a pin.
    pub(super) intx: bool,
    /// MSI vectors.
    pub(super) msi: u16,
    /// MSI-X vectors.
    pub(super) msix: u16,
}

/// Access control services of a bridge or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acs {
    /// All that separates devices is on.
    On,
    /// It is there, but not all is on.
    Off,
    /// It is not there.
    Missing,
    /// The configuration space cannot be read that far.
    Unreadable,
}

/// What a device may interrupt with; `None` if not enough can be read.
pub(super) fn interrupts(config: &[u8]) -> Option<Interrupts> {
    let mut found = Interrupts {
        intx: byte(config, INTERRUPT_PIN)? != 0,
        ..Interrupts::default()
    };
    if word(config, STATUS)? & STATUS_CAPABILITIES == 0 {
        return Some(found);
    }
    let mut at = usize::from(byte(config, CAPABILITIES_POINTER)?);
    for _ in 0..MAX_CAPABILITIES {
        at &= !3;
        if at == 0 {
            break;
        }
        let control = word(config, at.saturating_add(2))?;
        match byte(config, at)? {
            ID_MSI => found.msi = 1 << ((control >> 1) & 7).min(5),
            ID_MSIX => found.msix = (control & 0x7ff).saturating_add(1),
            _ => {}
        }
        at = usize::from(byte(config, at.saturating_add(1))?);
    }
    Some(found)
}

/// What a device says of ACS.
pub(super) fn acs(config: &[u8]) -> Acs {
    let mut at = EXTENDED_START;
    for _ in 0..MAX_EXTENDED {
        let Some(header) = dword(config, at) else {
            return Acs::Unreadable;
        };
        if header == 0 || header == u32::MAX {
            return Acs::Missing;
        }
        if header & 0xffff == EXTENDED_ID_ACS {
            return match word(config, at.saturating_add(6)) {
                Some(control) if control & ACS_ISOLATES == ACS_ISOLATES => Acs::On,
                Some(_) => Acs::Off,
                None => Acs::Unreadable,
            };
        }
        let next = usize::try_from(header >> 20).unwrap_or(0) & !3;
        if next < EXTENDED_START {
            return Acs::Missing;
        }
        at = next;
    }
    Acs::Missing
}

fn byte(config: &[u8], at: usize) -> Option<u8> {
    config.get(at).copied()
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn dword(config: &[u8], at: usize) -> Option<u32> {
    let bytes = config.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_follows_the_list_to_msi_and_msix() {
        let mut config = vec![0u8; 256];
        config[STATUS] = 0x10;
        config[INTERRUPT_PIN] = 1;
        config[CAPABILITIES_POINTER] = 0x40;
        config[0x40..0x44].copy_from_slice(&[ID_MSI, 0x50, 0x06, 0]);
        config[0x50..0x54].copy_from_slice(&[ID_MSIX, 0x00, 0x40, 0x80]);
        let expected = Interrupts {
            intx: true,
            msi: 8,
            msix: 65,
        };
        assert_eq!(interrupts(&config), Some(expected));
    }

    #[test]
    fn interrupts_ends_on_a_list_that_is_a_loop_and_on_a_short_space() {
        let mut config = vec![0u8; 256];
        config[STATUS] = 0x10;
        config[CAPABILITIES_POINTER] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x09, 0x40]);
        assert_eq!(interrupts(&config), Some(Interrupts::default()));
        assert_eq!(interrupts(&config[..64]), None);
    }

    #[test]
    fn acs_tells_on_off_missing_and_unreadable_apart() {
        let mut config = vec![0u8; 4096];
        assert_eq!(acs(&config), Acs::Missing);
        config[0x100..0x104].copy_from_slice(&0x1480_0001u32.to_le_bytes());
        config[0x148..0x14c].copy_from_slice(&0x0001_000du32.to_le_bytes());
        assert_eq!(acs(&config), Acs::Off);
        config[0x14e] = 0x1d;
        assert_eq!(acs(&config), Acs::On);
        assert_eq!(acs(&config[..256]), Acs::Unreadable);
    }
}
