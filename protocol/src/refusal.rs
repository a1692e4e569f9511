//! Why a message was refused: which field, which value, and what the peer is told.
//!
//! Spec: "Header", error replies; errno values follow conformance.md.
//! A refusal is not logged here; the caller does, once per kind and connection.

use crate::codec::Short;
use crate::header::CommandCode;
use rustix::io::Errno;
use std::fmt;

/// One field of a message has a value that cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:#x}")]
pub struct BadField {
    /// What an error reply says.
    pub errno: Errno,
    /// The field, by its name in the spec.
    pub field: &'static str,
    /// Its value, widened; 0 where a value makes no sense.
    pub value: u64,
}

impl BadField {
    /// A field that is answered with EINVAL.
    #[must_use]
    pub fn invalid(field: &'static str, value: impl Into<u64>) -> Self {
        Self {
            errno: Errno::INVAL,
            field,
            value: value.into(),
        }
    }

    /// The same field, answered with another errno.
    #[must_use]
    pub fn with_errno(self, errno: Errno) -> Self {
        Self { errno, ..self }
    }

    pub(crate) fn length(field: &'static str, bytes: usize) -> Self {
        Self::invalid(field, u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

impl From<Short> for BadField {
    fn from(_: Short) -> Self {
        Self::invalid("payload, shorter than its structure", 0u32)
    }
}

/// A request that is not executed. It was read whole, so the stream is in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request.
    pub command: CommandCode,
    /// What the error reply says.
    pub errno: Errno,
    /// True when the connection ends after the reply.
    pub close: bool,
    /// The field, by its name in the spec.
    pub field: &'static str,
    /// Its value, widened.
    pub value: u64,
}

impl Refusal {
    /// `bad` in a request of `command`; the connection lives.
    #[must_use]
    pub fn new(command: CommandCode, bad: BadField) -> Self {
        Self {
            command,
            errno: bad.errno,
            close: false,
            field: bad.field,
            value: bad.value,
        }
    }

    /// The same, and the connection ends.
    #[must_use]
    pub fn closing(self) -> Self {
        Self {
            close: true,
            ..self
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} refused with errno {}: {} is {:#x}",
            self.command,
            self.errno.raw_os_error(),
            self.field,
            self.value
        )
    }
}

impl std::error::Error for Refusal {}
