//! What a server announces, how long it waits, and why a connection ends.

use crate::header::CommandCode;
use crate::limits;
use crate::messages::version::Capabilities;
use crate::refusal::{BadField, Refusal};
use crate::transport::{RecvError, SendError};
use rustix::io::Errno;
use std::time::Duration;

/// What a server announces and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `twin_socket: Supported` lets a client have one.
    pub capabilities: Capabilities,
    /// How long to wait for what.
    pub deadlines: ServerDeadlines,
}

/// How long a server waits for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerDeadlines {
    /// From the start to a whole VERSION.
    pub negotiation: Duration,
    /// From a message's first byte to its last.
    pub message: Duration,
    /// Until a client takes an answer.
    pub send: Duration,
    /// Until a client has answered a DMA message.
    pub dma: Duration,
}

impl ServerConfig {
    /// The limits of this crate, without message-mode DMA.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            capabilities: Capabilities::OURS,
            deadlines: ServerDeadlines {
                negotiation: limits::NEGOTIATION_DEADLINE,
                message: limits::MESSAGE_DEADLINE,
                send: limits::SEND_DEADLINE,
                dma: limits::ACCESS_DEADLINE,
            },
        }
    }
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Nothing more can be received; `RecvError::Closed` is a client that left.
    #[error("receiving: {0}")]
    Receive(#[source] RecvError),
    /// An answer cannot be sent.
    #[error("sending: {0}")]
    Send(#[source] SendError),
    /// The client broke the rules.
    #[error("{0}")]
    Refused(#[source] Refusal),
    /// The client's answer to a DMA message makes no sense.
    #[error("the answer to {command} makes no sense: {bad}")]
    DmaReply {
        /// The DMA message.
        command: CommandCode,
        /// What is wrong.
        bad: BadField,
    },
    /// While a DMA message was not answered, more requests came than are set aside.
    #[error("more requests than can be set aside came while a DMA message was not answered")]
    TooManyRequests,
    /// The second socket for DMA messages cannot be made.
    #[error("cannot make a twin socket")]
    TwinSocket(#[source] Errno),
}
