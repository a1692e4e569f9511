//! Do the devices fit together: unique ids, existing buses, free slots, functions that the guest can find.
//!
//! The same checks serve a device that is added later: put it at the end of the list.

use std::collections::HashMap;

use super::ConfigError;
use super::device::DeviceConfig;
use super::place::{Place, ROOT_BUS};

#[cfg(test)]
mod tests;

/// Most devices of one machine: more than its buses could be asked to hold in any sensible machine.
pub const MAX_DEVICES: usize = 256;
/// The slot of the root bus that holds the host bridge.
const HOST_BRIDGE_SLOT: u8 = 0;

/// Checks all devices against each other, in their order.
pub fn check(devices: &[DeviceConfig]) -> Result<(), ConfigError> {
    if devices.len() > MAX_DEVICES {
        return Err(ConfigError::Missing(format!(
            "{} devices: at most {MAX_DEVICES} are allowed",
            devices.len()
        )));
    }
    for (index, device) in devices.iter().enumerate() {
        let others = || devices.iter().take(index);
        if device.id() == ROOT_BUS {
            return Err(ConfigError::device(
                device.id(),
                format!("\"{ROOT_BUS}\" is the root bus; take another id"),
            ));
        }
        if others().any(|other| other.id() == device.id()) {
            return Err(ConfigError::device(
                device.id(),
                "this id is taken by another device; ids are unique",
            ));
        }
        if let Some(other) = others().find(|other| same_source(device, other)) {
            let reason = format!("it is already passed to this machine as '{}'", other.id());
            return Err(ConfigError::device(device.id(), reason));
        }
        check_bus(device, devices)?;
    }
    check_slots(devices)
}

/// The same host device, or the same socket.
fn same_source(a: &DeviceConfig, b: &DeviceConfig) -> bool {
    match (a, b) {
        (DeviceConfig::VfioPci(a), DeviceConfig::VfioPci(b)) => a.host == b.host,
        (DeviceConfig::VfioUserPci(a), DeviceConfig::VfioUserPci(b)) => a.socket == b.socket,
        (
            DeviceConfig::RootPort(_) | DeviceConfig::VfioPci(_) | DeviceConfig::VfioUserPci(_),
            _,
        ) => false,
    }
}

fn check_bus(device: &DeviceConfig, devices: &[DeviceConfig]) -> Result<(), ConfigError> {
    let place = device.place();
    let refuse = |reason: String| Err(ConfigError::device(device.id(), reason));
    if place.bus == ROOT_BUS {
        if place.slot == HOST_BRIDGE_SLOT {
            return refuse(format!(
                "slot 0x0 of {ROOT_BUS} holds the host bridge; take one from 0x1 to 0x1f"
            ));
        }
        return Ok(());
    }
    let ports = devices.iter().filter_map(|other| match other {
        DeviceConfig::RootPort(port) => Some(port.id.as_str()),
        DeviceConfig::VfioPci(_) | DeviceConfig::VfioUserPci(_) => None,
    });
    let buses: Vec<&str> = std::iter::once(ROOT_BUS).chain(ports).collect();
    if !buses.contains(&place.bus.as_str()) {
        return refuse(format!(
            "there is no bus \"{}\"; there are {}",
            place.bus,
            buses.join(", ")
        ));
    }
    if matches!(device, DeviceConfig::RootPort(_)) {
        return refuse(format!(
            "a root port sits on {ROOT_BUS}, not behind another port"
        ));
    }
    if place.slot != 0 {
        return refuse(format!(
            "a root port has one slot, 0x0; slot {:#x} of bus \"{}\" cannot be",
            place.slot, place.bus
        ));
    }
    Ok(())
}

/// One device per function, and functions above 0 only beside a function 0 that says it has siblings.
fn check_slots(devices: &[DeviceConfig]) -> Result<(), ConfigError> {
    let mut taken: HashMap<(&str, u8, u8), &DeviceConfig> = HashMap::new();
    for device in devices {
        let place = device.place();
        if let Some(other) = taken.insert((&place.bus, place.slot, place.function), device) {
            let reason = format!("{} is already taken by '{}'", show(place), other.id());
            return Err(ConfigError::device(device.id(), reason));
        }
    }
    for device in devices.iter().filter(|device| device.place().function != 0) {
        let place = device.place();
        let reason = match taken.get(&(place.bus.as_str(), place.slot, 0)) {
            None => format!(
                "{} cannot be found by the guest without a function 0 in that slot; add one, with multifunction=on",
                show(place)
            ),
            Some(first) if !first.place().multifunction => format!(
                "'{}' is function 0 of that slot and says that it is the only one; give it multifunction=on",
                first.id()
            ),
            Some(_) => continue,
        };
        return Err(ConfigError::device(device.id(), reason));
    }
    Ok(())
}

fn show(place: &Place) -> String {
    format!(
        "slot {:#x} function {} of bus \"{}\"",
        place.slot, place.function, place.bus
    )
}
