//! `-device`: which device, with which properties.
//!
//! Drivers: `pcie-root-port`, `vfio-pci` (a host device, through a device server of its own) and `vfio-user-pci` (any
//! vfio-user server's socket). Properties that do not concern other devices are checked here, the rest in `topology`.

use std::path::PathBuf;

use protocol::pci::PciAddress;
pub use protocol::supervisor::{BarMmap, HostOptions};
use serde::{Deserialize, Serialize};
use telemetry::device::UNKNOWN;
use tracing::Span;

use super::place::{Place, whole_number};
use super::property_list::{PropertyError, PropertyList, SwitchOr};
use super::root_port::{self, RootPortConfig};
use super::{ConfigError, json};

#[cfg(test)]
mod tests;

/// Longest id in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// Longest socket path in bytes (unix(7): 108 with the final zero).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;
/// How long a guest may take to let go of a device, in seconds, if nothing else is said. Linux blinks for 5.
pub const UNPLUG_TIMEOUT_S: u32 = 30;
/// The longest that can be asked for.
const MAX_UNPLUG_TIMEOUT_S: u32 = 3600;
/// The drivers there are, for messages.
pub const DRIVERS: [&str; 3] = ["pcie-root-port", "vfio-pci", "vfio-user-pci"];

/// One device of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum DeviceConfig {
    /// `pcie-root-port`: a bus that a device can be plugged into.
    #[serde(rename = "pcie-root-port")]
    RootPort(RootPortConfig),
    /// `vfio-pci`: a device of the host.
    VfioPci(VfioPciConfig),
    /// `vfio-user-pci`: the device behind a vfio-user socket.
    VfioUserPci(VfioUserConfig),
}

/// A host device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioPciConfig {
    /// Its address on the host.
    #[serde(with = "pci_address")]
    pub host: PciAddress,
    /// What all passed devices have.
    #[serde(flatten)]
    pub common: VfioCommon,
}

/// A device behind a vfio-user socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioUserConfig {
    /// Where its server listens.
    pub socket: PathBuf,
    /// What all passed devices have.
    #[serde(flatten)]
    pub common: VfioCommon,
}

/// What all passed devices have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioCommon {
    /// Its name.
    pub id: String,
    /// Its address on the host, as logs and metrics show it; `-` behind somebody else's socket, where it is not known.
    pub pci: String,
    /// Where the guest sees it.
    pub place: Place,
    /// How it is served, if the server is our own; what the VMM can do of it itself it does with any server.
    pub options: HostOptions,
    /// How long the guest may take to let go of it, in seconds.
    pub unplug_timeout_s: u32,
    /// What happens when it is lost.
    pub on_failure: OnFailure,
}

impl VfioCommon {
    /// The span of log lines about it.
    pub fn span(&self) -> Span {
        telemetry::device::span(&self.id, &self.pci)
    }
}

/// `on-failure=`: what happens when the device or its server is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// It is taken out of its slot.
    Remove,
    /// It is taken out of its slot, and put in again with a new server.
    Restart,
    /// The processors stop.
    Stop,
}

impl DeviceConfig {
    /// Parses the value of `-device`, in either form.
    pub fn parse(text: &str) -> Result<DeviceConfig, ConfigError> {
        let list = if json::is_json(text) {
            json::parse(text)
        } else {
            PropertyList::parse(text)
        };
        DeviceConfig::from_properties(list.map_err(|error| ConfigError::device(text, error))?)
    }

    /// From properties that are split already (`-device`, and `device_add` of QMP).
    pub fn from_properties(mut properties: PropertyList) -> Result<DeviceConfig, ConfigError> {
        let driver = properties.head.clone();
        let id = properties.take("id").unwrap_or_default();
        let shown = if id.is_empty() {
            driver.clone()
        } else {
            id.clone()
        };
        let parsed = match driver.as_str() {
            "pcie-root-port" => root_port::parse(id, &mut properties).map(DeviceConfig::RootPort),
            "vfio-pci" => vfio_pci(id, &mut properties).map(DeviceConfig::VfioPci),
            "vfio-user-pci" => vfio_user_pci(id, &mut properties).map(DeviceConfig::VfioUserPci),
            _ => {
                let known = DRIVERS.join(", ");
                return Err(ConfigError::device(
                    &driver,
                    format!("there is no such device; there are {known}"),
                ));
            }
        };
        // An unknown key first: it may be why a required one is missing.
        let parsed = match parsed {
            Ok(device) => properties.finish().map(|()| device),
            Err(error) => Err(properties
                .finish()
                .err()
                .filter(|_| error.0.contains("is missing"))
                .unwrap_or(error)),
        };
        parsed.map_err(|error| ConfigError::device(&shown, error))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            DeviceConfig::RootPort(port) => &port.id,
            DeviceConfig::VfioPci(device) => &device.common.id,
            DeviceConfig::VfioUserPci(device) => &device.common.id,
        }
    }

    /// Where it sits.
    pub fn place(&self) -> &Place {
        match self {
            DeviceConfig::RootPort(port) => &port.place,
            DeviceConfig::VfioPci(device) => &device.common.place,
            DeviceConfig::VfioUserPci(device) => &device.common.place,
        }
    }

    /// What a passed device has; `None` for a root port.
    pub fn vfio(&self) -> Option<&VfioCommon> {
        match self {
            DeviceConfig::RootPort(_) => None,
            DeviceConfig::VfioPci(device) => Some(&device.common),
            DeviceConfig::VfioUserPci(device) => Some(&device.common),
        }
    }
}

fn vfio_pci(id: String, properties: &mut PropertyList) -> Result<VfioPciConfig, PropertyError> {
    let host = properties.take("host");
    let mut common = vfio_common(id, properties)?;
    common.options.managed = managed(properties)?;
    let host = host.filter(|host| !host.is_empty()).ok_or_else(|| {
        PropertyError(
            "host is missing; say which host device, for example host=0000:1a:00.3".to_owned(),
        )
    })?;
    let host = host
        .parse::<PciAddress>()
        .map_err(|error| PropertyError(format!("host: {error}")))?;
    common.pci = host.to_string();
    Ok(VfioPciConfig { host, common })
}

fn vfio_user_pci(
    id: String,
    properties: &mut PropertyList,
) -> Result<VfioUserConfig, PropertyError> {
    let socket = properties.take("socket");
    let common = vfio_common(id, properties)?;
    let socket = socket.filter(|socket| !socket.is_empty()).ok_or_else(|| {
        PropertyError(
            "socket is missing; say where the server listens, for example socket=/run/x.sock"
                .to_owned(),
        )
    })?;
    check_socket_path("socket", &socket)?;
    Ok(VfioUserConfig {
        socket: PathBuf::from(socket),
        common,
    })
}

/// What the supervisor connects to.
pub(super) fn check_socket_path(key: &str, path: &str) -> Result<(), PropertyError> {
    check_path(key, path, MAX_SOCKET_PATH_BYTES)
}

/// What the supervisor opens: it stands in another folder than whoever asks, so a path must be whole.
pub(super) fn check_path(key: &str, path: &str, limit_bytes: usize) -> Result<(), PropertyError> {
    if !path.starts_with('/') {
        return Err(PropertyError(format!(
            "{key}={path}: write the whole path, from /"
        )));
    }
    if path.len() > limit_bytes {
        return Err(PropertyError(format!(
            "{key}: such a path has at most {limit_bytes} bytes"
        )));
    }
    if path.chars().any(char::is_control) {
        return Err(PropertyError(format!(
            "{key}: the path has a control character in it"
        )));
    }
    Ok(())
}

fn vfio_common(id: String, properties: &mut PropertyList) -> Result<VfioCommon, PropertyError> {
    let options = host_options(properties)?;
    let unplug_timeout_s = unplug_timeout(properties)?;
    let on_failure = on_failure(properties)?;
    let place = Place::take(properties)?;
    Ok(VfioCommon {
        id: checked_id(id)?,
        pci: UNKNOWN.to_owned(),
        place,
        options,
        unplug_timeout_s,
        on_failure,
    })
}

/// How a host device may be served, in `-device`, `device_add` and `-device-policy`.
pub(super) fn host_options(properties: &mut PropertyList) -> Result<HostOptions, PropertyError> {
    let bar_mmap = match properties.take_switch_or("bar-mmap", "force")? {
        None | Some(SwitchOr::On) => BarMmap::On,
        Some(SwitchOr::Off) => BarMmap::Off,
        Some(SwitchOr::Word) => BarMmap::Force,
    };
    Ok(HostOptions {
        allow_no_reset: properties.take_switch("allow-no-reset")?.unwrap_or(false),
        allow_noncoherent: properties
            .take_switch("allow-noncoherent")?
            .unwrap_or(false),
        bar_mmap,
        // Of a device of the host only.
        managed: false,
    })
}

/// `managed=on`: the device is taken from its host driver, and given back.
pub(super) fn managed(properties: &mut PropertyList) -> Result<bool, PropertyError> {
    Ok(properties.take_switch("managed")?.unwrap_or(false))
}

fn unplug_timeout(properties: &mut PropertyList) -> Result<u32, PropertyError> {
    let Some(text) = properties.take("unplug-timeout") else {
        return Ok(UNPLUG_TIMEOUT_S);
    };
    whole_number(&text)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| (1..=MAX_UNPLUG_TIMEOUT_S).contains(seconds))
        .ok_or_else(|| {
            PropertyError(format!(
                "unplug-timeout={text}: write seconds, from 1 to {MAX_UNPLUG_TIMEOUT_S}"
            ))
        })
}

fn on_failure(properties: &mut PropertyList) -> Result<OnFailure, PropertyError> {
    match properties.take("on-failure").as_deref() {
        None | Some("remove") => Ok(OnFailure::Remove),
        Some("restart") => Ok(OnFailure::Restart),
        Some("stop") => Ok(OnFailure::Stop),
        Some(other) => Err(PropertyError(format!(
            "on-failure={other}: write remove, restart or stop"
        ))),
    }
}

pub(super) fn checked_id(id: String) -> Result<String, PropertyError> {
    if id.is_empty() {
        return Err(PropertyError(
            "id is missing or empty; name the device, for example id=net".to_owned(),
        ));
    }
    if id.len() > MAX_ID_BYTES {
        return Err(PropertyError(format!(
            "id has {} bytes; at most {MAX_ID_BYTES} are allowed",
            id.len()
        )));
    }
    if id.chars().any(char::is_control) {
        return Err(PropertyError("id has a control character in it".to_owned()));
    }
    Ok(id)
}

/// As its text, so that the JSON between the stages reads as the command line does.
pub(super) mod pci_address {
    use protocol::pci::PciAddress;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<S: Serializer>(
        address: &PciAddress,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PciAddress, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
