//! Which interrupt controller input an INTx pin of a slot arrives at.
//!
//! Spec: PCI-to-PCI Bridge 1.2 §9.1 (swizzle behind a bridge). ACPI's _PRT is made from the same function.

use super::function::IntxRoute;

/// First interrupt controller input that INTx pins use.
pub const FIRST_GSI: u32 = 16;
/// How many inputs they share.
pub const GSI_COUNT: u32 = 8;
/// Pins of a function, INTA to INTD.
pub const PINS: u8 = 4;

/// The interrupt controller input of `pin` (0 is INTA) of `slot` on the root bus.
pub fn intx_gsi(slot: u8, pin: u8) -> u32 {
    FIRST_GSI + (u32::from(slot) + u32::from(pin)) % GSI_COUNT
}

/// The pins of a function in `slot` of the root bus.
pub(super) fn route_on_root_bus(slot: u8) -> IntxRoute {
    IntxRoute {
        gsi: [0, 1, 2, 3].map(|pin| intx_gsi(slot, pin)),
    }
}

/// The pins of a function in `slot` behind the root port in `port_slot`.
pub(super) fn route_behind_port(port_slot: u8, slot: u8) -> IntxRoute {
    IntxRoute {
        gsi: [0, 1, 2, 3].map(|pin| intx_gsi(port_slot, (pin + slot) % PINS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_a_slot_are_consecutive_inputs_from_16_to_23() {
        assert_eq!(route_on_root_bus(3).gsi, [19, 20, 21, 22]);
        assert_eq!(route_on_root_bus(31).gsi, [23, 16, 17, 18]);
    }

    #[test]
    fn slot_0_behind_a_port_has_the_pins_of_the_port() {
        assert_eq!(route_behind_port(1, 0), route_on_root_bus(1));
        assert_eq!(route_behind_port(1, 1).gsi, [18, 19, 20, 17]);
    }
}
