//! `-device pcie-root-port`: a bus that devices can be plugged into while the guest runs.

use serde::{Deserialize, Serialize};

use super::device::checked_id;
use super::place::{Place, number, whole_number};
use super::property_list::{PropertyError, PropertyList};
use super::size::{self, PlainUnit};

/// Largest `mem-reserve`, in bytes: half of the 32-bit window.
const MAX_MEM_RESERVE: u64 = 480 << 20;
/// Largest `pref64-reserve`, in bytes.
const MAX_PREF64_RESERVE: u64 = 1 << 40;

/// A PCIe root port. Its id is the name of the bus behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPortConfig {
    /// Its id and the name of the bus behind it.
    pub id: String,
    /// Port number in its link capabilities.
    pub port: u8,
    /// Taken for libvirt's sake; goes into the slot number.
    pub chassis: Option<u16>,
    /// Where it sits.
    pub place: Place,
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
    let chassis = properties.take("chassis");
    let mem_reserve = reserve(properties, "mem-reserve", MAX_MEM_RESERVE)?;
    let pref64_reserve = reserve(properties, "pref64-reserve", MAX_PREF64_RESERVE)?;
    let place = Place::take(properties)?;
    Ok(RootPortConfig {
        id: checked_id(id)?,
        port: number(&port, u8::MAX)
            .ok_or_else(|| PropertyError(format!("port={port}: write a number from 0 to 254")))?,
        chassis: chassis
            .map(|chassis| chassis_number(&chassis))
            .transpose()?,
        place,
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
            "{key}={text}: at most {} MiB can be kept",
            limit >> 20
        )));
    }
    Ok(Some(bytes))
}

fn chassis_number(text: &str) -> Result<u16, PropertyError> {
    whole_number(text)
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| PropertyError(format!("chassis={text}: write a number from 0 to 65535")))
}
