//! The MSI capability, as the guest sees it in configuration space.
//!
//! Spec: PCI Local Bus 3.0 §6.8.1. Pure: what the registers mean is wired up in `vectors.rs`.
//! The device's own registers are never written: the server programs them through the host's kernel.
//! Limits: 32 vectors.

use super::capabilities::MsiLayout;
use crate::kvm::MsiMessage;
use crate::pci::config_space::ConfigSpace;

const CONTROL_OFFSET: u16 = 2;
const CONTROL_ENABLE: u16 = 1 << 0;
const CONTROL_CAPABLE: u16 = 7 << 1;
const CONTROL_ENABLED: u16 = 7 << 4;
const ADDRESS_OFFSET: u16 = 4;
/// Data, mask and pending registers follow the address, which has 4 or 8 bytes.
const MASK_AFTER_DATA: u16 = 4;
const PENDING_AFTER_DATA: u16 = 8;

/// What the registers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsiState {
    /// One message per vector in use.
    pub messages: Vec<MsiMessage>,
    /// Bit n: vector n is masked.
    pub masked: u32,
}

/// Puts the capability into its state after reset: off, `vectors` offered, registers zero and writable.
pub fn set_up(space: &mut ConfigSpace, layout: &MsiLayout) {
    let control = layout.offset + CONTROL_OFFSET;
    let log = u16::try_from(layout.vectors.trailing_zeros()).unwrap_or(0);
    let fixed = space.u16_at(control) & !(CONTROL_ENABLE | CONTROL_CAPABLE | CONTROL_ENABLED);
    space.set(control, &(fixed | log << 1).to_le_bytes());
    space.allow(control, &(CONTROL_ENABLE | CONTROL_ENABLED).to_le_bytes());
    let data = data_offset(layout);
    for offset in layout.offset + ADDRESS_OFFSET..data + 2 {
        space.set(offset, &[0]);
        space.allow(offset, &[0xff]);
    }
    space.allow(layout.offset + ADDRESS_OFFSET, &[0xfc]);
    if layout.masking {
        space.set(data + 2, &[0; 10]);
        space.allow(
            data + MASK_AFTER_DATA,
            &vector_bits(layout.vectors).to_le_bytes(),
        );
    }
}

/// What the guest has set up, or nothing while MSI is off.
pub fn state(space: &ConfigSpace, layout: &MsiLayout) -> Option<MsiState> {
    let control = space.u16_at(layout.offset + CONTROL_OFFSET);
    if control & CONTROL_ENABLE == 0 {
        return None;
    }
    let count = (1u32 << (control >> 4 & 7)).min(layout.vectors);
    let low = u64::from(space.u32_at(layout.offset + ADDRESS_OFFSET));
    let high = if layout.wide {
        u64::from(space.u32_at(layout.offset + ADDRESS_OFFSET + 4))
    } else {
        0
    };
    let data = u32::from(space.u16_at(data_offset(layout)));
    let messages = (0..count)
        // The function sets the low bits of the data to the vector's number.
        .map(|vector| MsiMessage {
            address: high << 32 | low,
            data: data & !(count - 1) | vector,
        })
        .collect();
    let masked = if layout.masking {
        space.u32_at(data_offset(layout) + MASK_AFTER_DATA)
    } else {
        0
    };
    Some(MsiState { messages, masked })
}

/// Where the pending register is, if the capability has one.
pub fn pending_offset(layout: &MsiLayout) -> Option<u16> {
    layout
        .masking
        .then(|| data_offset(layout) + PENDING_AFTER_DATA)
}

fn data_offset(layout: &MsiLayout) -> u16 {
    layout.offset + ADDRESS_OFFSET + if layout.wide { 8 } else { 4 }
}

fn vector_bits(vectors: u32) -> u32 {
    if vectors >= 32 {
        u32::MAX
    } else {
        (1 << vectors) - 1
    }
}

#[cfg(test)]
mod tests;
