//! Where a device sits: `bus=pcie.0,addr=0x3.0x0[,multifunction=on]`.

use serde::{Deserialize, Serialize};

use super::property_list::{PropertyError, PropertyList};

#[cfg(test)]
mod tests;

/// Slots of a bus.
pub const SLOTS: u8 = 32;
/// Functions of a slot.
pub const FUNCTIONS: u8 = 8;
/// The root bus.
pub const ROOT_BUS: &str = "pcie.0";

/// A function of a slot of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `pcie.0`, or the id of a root port.
    pub bus: String,
    /// 0 to 31.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
    /// For function 0: the slot may have others.
    pub multifunction: bool,
}

impl Place {
    /// Takes `bus`, `addr` and `multifunction`.
    pub fn take(properties: &mut PropertyList) -> Result<Place, PropertyError> {
        let bus = properties.take_required("bus", ROOT_BUS)?;
        let addr = properties.take_required("addr", "0x3.0x0")?;
        let (slot, function) = slot_and_function(&addr)?;
        let multifunction = properties.take_switch("multifunction")?.unwrap_or(false);
        Ok(Place {
            bus,
            slot,
            function,
            multifunction,
        })
    }
}

fn slot_and_function(addr: &str) -> Result<(u8, u8), PropertyError> {
    let bad = |what: &str, text: &str, limit: u8| {
        let last = limit - 1;
        PropertyError(format!(
            "addr={addr}: \"{text}\" is not a {what}; write a number from 0 to {last}, or in hexadecimal from 0x0 to {last:#x}"
        ))
    };
    let mut parts = addr.split('.');
    let slot = parts.next().unwrap_or_default();
    let function = parts.next().unwrap_or("0");
    if parts.next().is_some() {
        return Err(PropertyError(format!(
            "addr={addr}: more than slot and function; write SLOT or SLOT.FUNCTION"
        )));
    }
    Ok((
        number(slot, SLOTS).ok_or_else(|| bad("slot", slot, SLOTS))?,
        number(function, FUNCTIONS).ok_or_else(|| bad("function", function, FUNCTIONS))?,
    ))
}

/// A number below `limit`, decimal or after `0x` hexadecimal.
pub(super) fn number(text: &str, limit: u8) -> Option<u8> {
    whole_number(text)
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| *number < limit)
}

/// Digits only: no sign, no spaces.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}
