//! What a jailed VMM may ask of its supervisor: attach a device under an id, release it; open an image, close it. Nothing else.
//! And what a supervisor tells a device server that waits for its device (`order`).
//!
//! One JSON text per packet of a SOCK_SEQPACKET pair, so that a packet is a whole message or an error. A request carries no
//! file descriptor; of the replies to an attach exactly one, the first, carries one, a connected vfio-user socket, and so does the reply to an
//! opened image: a copy of the file in memory. A request has a number, and replies name it: an answer that comes too late is never
//! taken for that of a later request.
//! Not here: which devices and images a VMM may have (the supervisor's policy), rates and deadlines.
//! Limits: `MAX_CONTROL_BYTES` per message, `MAX_ID_BYTES` per id, `MAX_SOCKET_PATH_BYTES` and `MAX_IMAGE_PATH_BYTES` per path.

mod order;
mod channel;
mod reply;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pci::PciAddress;

pub use channel::{ControlError, ControlSocket, Received};
pub use order::{MAX_ORDER_FDS, Order, OrderError, OrderFds, Ordered};
pub use reply::{MAX_REASON_BYTES, Reply};

/// Largest message in bytes, either way. Source: an id and a socket path, every byte escaped, and the field names.
/// Why bounded: the supervisor reads it into memory before it trusts anything.
pub const MAX_CONTROL_BYTES: usize = 4096;

/// Longest device id in bytes. Source: QEMU-style ids; peers.md 2.1.
pub const MAX_ID_BYTES: usize = 255;

/// Longest socket path in bytes. Source: `sun_path` without its final zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Longest path of an image in bytes. Source: with every byte escaped it fits into `MAX_CONTROL_BYTES`; paths of kernels have some
/// dozens.
pub const MAX_IMAGE_PATH_BYTES: usize = 1024;

/// What the VMM asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Give me a vfio-user socket of this device.
    Attach {
        /// The request's number.
        number: u32,
        /// The id of the device in this VM.
        id: String,
        /// Which device.
        target: Target,
    },
    /// I have let go of this device: end its server and say when the host has it back.
    Release {
        /// The request's number.
        number: u32,
        /// The id it was attached under.
        id: String,
    },
    /// Give me what this file holds now.
    OpenImage {
        /// The request's number.
        number: u32,
        /// An absolute path.
        path: String,
    },
    /// I have let go of this image: its memory may be taken back.
    CloseImage {
        /// The request's number.
        number: u32,
        /// The number of the request that opened it.
        image: u32,
    },
}

/// Which device an attach is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A PCI device of the host: the supervisor starts a device server for it.
    Host {
        /// Its address.
        host: PciAddress,
        /// How it is served.
        options: HostOptions,
    },
    /// A device server that listens on this socket.
    Socket {
        /// An absolute path.
        path: String,
    },
}

/// How a host device is served: what the operator decides for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostOptions {
    /// Whether it is acceptable that the device cannot be reset.
    pub allow_no_reset: bool,
    /// Whether it is acceptable that its DMA bypasses caches that the guest cannot bypass.
    pub allow_noncoherent: bool,
    /// Whether its client may map its BARs.
    pub bar_mmap: BarMmap,
    /// Whether it is taken from its host driver, and given back.
    pub managed: bool,
}

/// Whether a client may map the BARs of a device. In the order of what it gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarMmap {
    /// No: every access is a message to the server, and no descriptor of the device leaves the server.
    Off,
    /// What the server offers is mapped, unless the host's CPU could leak other memory through it.
    #[default]
    On,
    /// What the server offers is mapped on such a CPU too.
    Force,
}

impl fmt::Display for BarMmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BarMmap::Off => "off",
            BarMmap::On => "on",
            BarMmap::Force => "force",
        })
    }
}

impl BarMmap {
    fn is_default(&self) -> bool {
        *self == BarMmap::default()
    }
}

/// A packet that is not one of the messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the JSON of one of the messages.
    #[error("not a request that the supervisor knows")]
    Unknown,
    /// A field with a value that cannot be.
    #[error("field {field} of a request is no {expected}")]
    Field {
        /// The number of the request.
        number: u32,
        /// Which one.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
}

/// A request as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum WireRequest {
    Attach(WireAttach),
    Release(WireRelease),
    OpenImage(WireOpenImage),
    CloseImage(WireCloseImage),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WireAttach {
    number: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_no_reset: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_noncoherent: bool,
    #[serde(default, skip_serializing_if = "BarMmap::is_default")]
    bar_mmap: BarMmap,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    managed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
}

impl WireAttach {
    fn new(number: u32, id: String, target: Target) -> WireAttach {
        let (host, options, socket) = match target {
            Target::Host { host, options } => (Some(host.to_string()), options, None),
            Target::Socket { path } => (None, HostOptions::default(), Some(path)),
        };
        WireAttach {
            number,
            id,
            host,
            allow_no_reset: options.allow_no_reset,
            allow_noncoherent: options.allow_noncoherent,
            bar_mmap: options.bar_mmap,
            managed: options.managed,
            socket,
        }
    }

    fn options(&self) -> HostOptions {
        HostOptions {
            allow_no_reset: self.allow_no_reset,
            allow_noncoherent: self.allow_noncoherent,
            bar_mmap: self.bar_mmap,
            managed: self.managed,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRelease {
    number: u32,
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOpenImage {
    number: u32,
    path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCloseImage {
    number: u32,
    image: u32,
}

impl Request {
    /// The number that replies name.
    pub fn number(&self) -> u32 {
        match self {
            Request::Attach { number, .. }
            | Request::Release { number, .. }
            | Request::OpenImage { number, .. }
            | Request::CloseImage { number, .. } => *number,
        }
    }

    /// Takes a packet apart. Whatever is accepted is within its limits.
    pub fn decode(packet: &[u8]) -> Result<Request, MessageError> {
        match serde_json::from_slice(packet).map_err(|_| MessageError::Unknown)? {
            WireRequest::Attach(attach) => {
                let options = attach.options();
                let number = attach.number;
                let id = checked_id(number, attach.id)?;
                let target = match (attach.host, attach.socket) {
                    (Some(host), None) => Target::Host {
                        host: host.parse().map_err(|_| MessageError::Field {
                            number,
                            field: "host",
                            expected: "PCI address",
                        })?,
                        options,
                    },
                    // A server that others started is served as they said.
                    (None, Some(path)) if options == HostOptions::default() => Target::Socket {
                        path: checked_path(number, path, &SOCKET_PATH)?,
                    },
                    (_, _) => return Err(MessageError::Unknown),
                };
                Ok(Request::Attach { number, id, target })
            }
            WireRequest::Release(WireRelease { number, id }) => Ok(Request::Release {
                number,
                id: checked_id(number, id)?,
            }),
            WireRequest::OpenImage(WireOpenImage { number, path }) => Ok(Request::OpenImage {
                number,
                path: checked_path(number, path, &IMAGE_PATH)?,
            }),
            WireRequest::CloseImage(WireCloseImage { number, image }) => {
                Ok(Request::CloseImage { number, image })
            }
        }
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let wire = match self.clone() {
            Request::Attach { number, id, target } => {
                WireRequest::Attach(WireAttach::new(number, id, target))
            }
            Request::Release { number, id } => WireRequest::Release(WireRelease { number, id }),
            Request::OpenImage { number, path } => {
                WireRequest::OpenImage(WireOpenImage { number, path })
            }
            Request::CloseImage { number, image } => {
                WireRequest::CloseImage(WireCloseImage { number, image })
            }
        };
        // Strings, numbers, booleans and names always serialize.
        serde_json::to_vec(&wire).unwrap_or_default()
    }
}

fn checked_id(number: u32, id: String) -> Result<String, MessageError> {
    let printable = !id.chars().any(char::is_control);
    if id.is_empty() || id.len() > MAX_ID_BYTES || !printable {
        return Err(MessageError::Field {
            number,
            field: "id",
            expected: "id of 1 to 255 bytes without control characters",
        });
    }
    Ok(id)
}

/// What a path has to be.
struct PathRule {
    field: &'static str,
    limit_bytes: usize,
    expected: &'static str,
}

const SOCKET_PATH: PathRule = PathRule {
    field: "socket",
    limit_bytes: MAX_SOCKET_PATH_BYTES,
    expected: "absolute path of at most 107 bytes",
};

const IMAGE_PATH: PathRule = PathRule {
    field: "path",
    limit_bytes: MAX_IMAGE_PATH_BYTES,
    expected: "absolute path of at most 1024 bytes",
};

fn checked_path(number: u32, path: String, rule: &PathRule) -> Result<String, MessageError> {
    let printable = !path.chars().any(char::is_control);
    if !path.starts_with('/') || path.len() > rule.limit_bytes || !printable {
        return Err(MessageError::Field {
            number,
            field: rule.field,
            expected: rule.expected,
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
