//! `-device pcie-root-port`: a bus that devices can be plugged into while the guest runs.
//!
//! Limits: numbers 1 to 254, so as many ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::device::{DeviceConfig, checked_id};
use super::place::{Place, number, whole_number};
use super::property_list::{PropertyError, PropertyList};
use super::size::{self, PlainUnit};

#[cfg(test)]
mod tests;

/// Largest `io-reserve`, in bytes: half of the I/O window.
pub const MAX_IO_RESERVE: u64 = 32 << 10;
/// Largest `mem-reserve`, in bytes: half of the 32-bit window.
pub const MAX_MEM_RESERVE: u64 = 480 << 20;
/// Largest `pref64-reserve`, in bytes.
pub const MAX_PREF64_RESERVE: u64 = 1 << 40;
/// A port without a number; it gets one.
const NO_NUMBER: u8 = 0;

/// A PCIe root port. Its id is the name of the bus behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPortConfig {
    /// Its id and the name of the bus behind it.
    pub id: String,
    /// Its number, which the guest also calls its slot by.
    pub port: u8,
    /// Where it sits.
    pub place: Place,
    /// Bytes of I/O ports that are kept for devices behind it.
    pub io_reserve: Option<u64>,
    /// Bytes of 32-bit memory that are kept for devices behind it.
    pub mem_reserve: Option<u64>,
    /// Bytes of 64-bit prefetchable memory that are kept for devices behind it.
    pub pref64_reserve: Option<u64>,
}

/// Takes its properties.
pub(super) fn parse(
    id: String,
    properties: &mut PropertyList,
) -> Result<RootPortConfig, PropertyError> {
    let port = properties.take("port").unwrap_or_else(|| "0".to_owned());
    // libvirt and QEMU's users write it; here a port is known by its number alone.
    if let Some(chassis) = properties.take("chassis") {
        check_chassis(&chassis)?;
    }
    let io_reserve = reserve(properties, "io-reserve", MAX_IO_RESERVE)?;
    let mem_reserve = reserve(properties, "mem-reserve", MAX_MEM_RESERVE)?;
    let pref64_reserve = reserve(properties, "pref64-reserve", MAX_PREF64_RESERVE)?;
    let place = Place::take(properties)?;
    Ok(RootPortConfig {
        id: checked_id(id)?,
        port: number(&port, u8::MAX)
            .ok_or_else(|| PropertyError(format!("port={port}: write a number from 0 to 254")))?,
        place,
        io_reserve,
        mem_reserve,
        pref64_reserve,
    })
}

fn reserve(
    properties: &mut PropertyList,
    key: &'static str,
    limit: u64,
) -> Result<Option<u64>, PropertyError> {
    let Some(text) = properties.take(key) else {
        return Ok(None);
    };
    let bytes = size::parse(&text, PlainUnit::Bytes)
        .map_err(|error| PropertyError(format!("{key}: {error}")))?;
    if bytes > limit {
        return Err(PropertyError(format!(
            "{key}={text}: at most {} KiB can be kept",
            limit >> 10
        )));
    }
    Ok(Some(bytes))
}

fn check_chassis(text: &str) -> Result<(), PropertyError> {
    whole_number(text)
        .filter(|number| *number <= u64::from(u16::MAX))
        .map(drop)
        .ok_or_else(|| PropertyError(format!("chassis={text}: write a number from 0 to 65535")))
}

/// Gives a number to each port that has none, the lowest that is free, and refuses numbers that are given twice: the guest
/// names slots by them.
pub fn number_ports(devices: &mut [DeviceConfig]) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<u8, String> = BTreeMap::new();
    for port in ports(devices).filter(|port| port.port != NO_NUMBER) {
        if let Some(other) = taken.insert(port.port, port.id.clone()) {
            let reason = format!(
                "port={} is the number of root port '{other}'; give another, or none to have one chosen",
                port.port
            );
            return Err(ConfigError::device(&port.id, reason));
        }
    }
    for port in ports(devices).filter(|port| port.port == NO_NUMBER) {
        let free = (1..u8::MAX).find(|number| !taken.contains_key(number));
        port.port = free.ok_or_else(|| {
            ConfigError::device(&port.id, "all numbers of root ports, 1 to 254, are taken")
        })?;
        taken.insert(port.port, port.id.clone());
    }
    Ok(())
}

fn ports(devices: &mut [DeviceConfig]) -> impl Iterator<Item = &mut RootPortConfig> {
    devices.iter_mut().filter_map(|device| match device {
        DeviceConfig::RootPort(port) => Some(port),
        DeviceConfig::VfioPci(_) | DeviceConfig::VfioUserPci(_) => None,
    })
}
