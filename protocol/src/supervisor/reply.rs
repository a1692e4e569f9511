//! What the supervisor answers.
//!
//! Limit: `MAX_REASON_BYTES` per reason.

use serde::{Deserialize, Serialize};

use super::MessageError;

/// Longest reason in a refusal, in bytes; the rest is cut off.
pub const MAX_REASON_BYTES: usize = 512;

/// What the supervisor answers. Every request gets one reply, but for `Connected`, which one more follows, and `Held`, which one more
/// may follow; replies may come in another order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// The device is served; its socket comes with this message, if it did not before.
    Attached {
        /// The number of the request.
        number: u32,
    },
    /// The device is still being opened; its socket comes with this message, and who serves it speaks already. `Attached` or `Refused`
    /// with the same number follows.
    Connected {
        /// The number of the request.
        number: u32,
    },
    /// The server has ended and its devices can be used by the host; or an image is closed.
    Released {
        /// The number of the request.
        number: u32,
    },
    /// The file was read; what it held comes with this message, as a memory file that nobody can write.
    Opened {
        /// The number of the request.
        number: u32,
    },
    /// To a release: not yet, and why. One line for the operator. `Released` with the same number follows when it is so after
    /// all; a second release of the same device does not wait for what cannot be mended.
    Held {
        /// The number of the request.
        number: u32,
        /// What keeps the host from having the device.
        reason: String,
    },
    /// No, and why. One line for the operator.
    Refused {
        /// The number of the request.
        number: u32,
        /// What was tried, why it failed and what to do.
        reason: String,
    },
}

impl Reply {
    /// A refusal, with its reason cut to `MAX_REASON_BYTES` and to one line.
    pub fn refused(number: u32, reason: &str) -> Reply {
        let reason = short(reason);
        Reply::Refused { number, reason }
    }

    /// What keeps the host from having a device, cut like a refusal's reason.
    pub fn held(number: u32, reason: &str) -> Reply {
        let reason = short(reason);
        Reply::Held { number, reason }
    }

    /// Whether another reply to the same request may follow.
    pub fn may_be_followed(&self) -> bool {
        match self {
            Reply::Connected { .. } | Reply::Held { .. } => true,
            Reply::Attached { .. }
            | Reply::Released { .. }
            | Reply::Opened { .. }
            | Reply::Refused { .. } => false,
        }
    }

    /// The number of the request that it answers.
    pub fn number(&self) -> u32 {
        match self {
            Reply::Attached { number }
            | Reply::Connected { number }
            | Reply::Released { number }
            | Reply::Opened { number }
            | Reply::Held { number, .. }
            | Reply::Refused { number, .. } => *number,
        }
    }

    /// Takes a packet apart.
    pub fn decode(packet: &[u8]) -> Result<Reply, MessageError> {
        serde_json::from_slice(packet).map_err(|_| MessageError::Unknown)
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn short(reason: &str) -> String {
    let mut text: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    text
}
