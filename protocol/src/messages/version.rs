//! VERSION: who speaks which version, and what each side can take.
//!
//! Spec: vfio-user, "VFIO_USER_VERSION": major u16, minor u16, optional JSON text with a final NUL.
//! The JSON is in `version_json.rs`. Limits: `MAX_VERSION_JSON_BYTES`; values above ours are clamped to ours.

use crate::codec::{Put, Reader};
use crate::limits;
use crate::messages::version_json;
use crate::refusal::BadField;

/// The first message of a connection, and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Must be equal on both sides.
    pub major: u16,
    /// The reply's is at most the request's.
    pub minor: u16,
    /// What the sender can take.
    pub capabilities: Capabilities,
}

/// What the sender of a VERSION message can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// File descriptors that the sender takes in one message.
    pub max_msg_fds: u32,
    /// Largest `count` that the sender accepts, in bytes; never 0.
    pub max_data_xfer_size: u32,
    /// Simultaneous DMA maps.
    pub max_dma_maps: u32,
    /// Bitmap of page sizes for DMA maps; never 0, nothing below 4096.
    pub pgsizes: u64,
    /// A second socket for the messages of the server.
    pub twin_socket: TwinSocket,
    /// REGION_WRITE_MULTI may be used.
    pub write_multiple: bool,
    /// Migration; not in the current spec, still sent by peers.
    pub migration: Option<Migration>,
}

/// The `twin_socket` capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwinSocket {
    /// Not offered.
    Unsupported,
    /// A client that can use one.
    Supported,
    /// A server's reply: the socket is this file descriptor of the message.
    Fd(u32),
}

/// The `migration` capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Page size of dirty bitmaps, a power of two.
    pub pgsize: u64,
}

/// Who sent the text: a few keys mean something on one side only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

impl Capabilities {
    /// What the spec says of a peer that announces nothing.
    pub const UNSTATED: Self = Self {
        max_msg_fds: 1,
        max_data_xfer_size: limits::MAX_DATA_XFER_BYTES,
        max_dma_maps: limits::MAX_DMA_MAPS,
        pgsizes: limits::PAGE_BYTES,
        twin_socket: TwinSocket::Unsupported,
        write_multiple: false,
        migration: None,
    };

    /// What this implementation takes. Twin socket and migration are up to the user of the crate.
    pub const OURS: Self = Self {
        max_msg_fds: limits::MAX_MSG_FDS,
        max_data_xfer_size: limits::MAX_DATA_XFER_BYTES,
        max_dma_maps: limits::MAX_DMA_MAPS,
        pgsizes: limits::PAGE_BYTES,
        twin_socket: TwinSocket::Unsupported,
        write_multiple: true,
        migration: None,
    };
}

impl Version {
    /// Reads a client's VERSION.
    ///
    /// # Errors
    /// The payload is short, or its JSON is not what the spec says.
    pub fn decode_request(body: &[u8]) -> Result<Self, BadField> {
        Self::decode(body, Sender::Client)
    }

    /// Reads a server's answer.
    ///
    /// # Errors
    /// As [`Self::decode_request`].
    pub fn decode_reply(body: &[u8]) -> Result<Self, BadField> {
        Self::decode(body, Sender::Server)
    }

    fn decode(body: &[u8], sender: Sender) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (major, minor) = (reader.u16()?, reader.u16()?);
        Ok(Self {
            major,
            minor,
            capabilities: version_json::decode(reader.rest(), sender)?,
        })
    }

    /// Appends the payload; the same for both directions.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.major);
        out.put_u16(self.minor);
        version_json::encode(&self.capabilities, out);
    }
}
