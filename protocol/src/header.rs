//! The 16 bytes in front of every message.
//!
//! Spec: vfio-user, "Header": message id u16, command u16, message size u32, flags u32, error u32.
//! A header that parsed is inside the limits: its size is at least 16 and at most what the caller allows, its type
//! is command or reply. Reserved flag bits and the error field of a request are ignored.

use crate::ids::MessageId;
use crate::limits::HEADER_BYTES;
use rustix::io::Errno;
use std::fmt;

/// Command number as it is on the wire; unknown values are data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandCode(pub u16);

impl CommandCode {
    /// VFIO_USER_VERSION.
    pub const VERSION: Self = Self(1);
    /// VFIO_USER_DMA_MAP.
    pub const DMA_MAP: Self = Self(2);
    /// VFIO_USER_DMA_UNMAP.
    pub const DMA_UNMAP: Self = Self(3);
    /// VFIO_USER_DEVICE_GET_INFO.
    pub const DEVICE_GET_INFO: Self = Self(4);
    /// VFIO_USER_DEVICE_GET_REGION_INFO.
    pub const DEVICE_GET_REGION_INFO: Self = Self(5);
    /// VFIO_USER_DEVICE_GET_REGION_IO_FDS.
    pub const DEVICE_GET_REGION_IO_FDS: Self = Self(6);
    /// VFIO_USER_DEVICE_GET_IRQ_INFO.
    pub const DEVICE_GET_IRQ_INFO: Self = Self(7);
    /// VFIO_USER_DEVICE_SET_IRQS.
    pub const DEVICE_SET_IRQS: Self = Self(8);
    /// VFIO_USER_REGION_READ.
    pub const REGION_READ: Self = Self(9);
    /// VFIO_USER_REGION_WRITE.
    pub const REGION_WRITE: Self = Self(10);
    /// VFIO_USER_DMA_READ (server to client).
    pub const DMA_READ: Self = Self(11);
    /// VFIO_USER_DMA_WRITE (server to client).
    pub const DMA_WRITE: Self = Self(12);
    /// VFIO_USER_DEVICE_RESET.
    pub const DEVICE_RESET: Self = Self(13);
    /// VFIO_USER_REGION_WRITE_MULTI.
    pub const REGION_WRITE_MULTI: Self = Self(15);
    /// VFIO_USER_DEVICE_FEATURE.
    pub const DEVICE_FEATURE: Self = Self(16);
    /// VFIO_USER_MIG_DATA_READ.
    pub const MIG_DATA_READ: Self = Self(17);
    /// VFIO_USER_MIG_DATA_WRITE.
    pub const MIG_DATA_WRITE: Self = Self(18);

    /// Name in the spec, without its prefix; `None` for a number that is no command.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::VERSION => "VERSION",
            Self::DMA_MAP => "DMA_MAP",
            Self::DMA_UNMAP => "DMA_UNMAP",
            Self::DEVICE_GET_INFO => "DEVICE_GET_INFO",
            Self::DEVICE_GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
            Self::DEVICE_GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
            Self::DEVICE_GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
            Self::DEVICE_SET_IRQS => "DEVICE_SET_IRQS",
            Self::REGION_READ => "REGION_READ",
            Self::REGION_WRITE => "REGION_WRITE",
            Self::DMA_READ => "DMA_READ",
            Self::DMA_WRITE => "DMA_WRITE",
            Self::DEVICE_RESET => "DEVICE_RESET",
            Self::REGION_WRITE_MULTI => "REGION_WRITE_MULTI",
            Self::DEVICE_FEATURE => "DEVICE_FEATURE",
            Self::MIG_DATA_READ => "MIG_DATA_READ",
            Self::MIG_DATA_WRITE => "MIG_DATA_WRITE",
            Self(_) => return None,
        })
    }

    /// Can a message of this command and type carry file descriptors by the spec?
    #[must_use]
    pub fn carries_fds(self, kind: MessageType) -> bool {
        match kind {
            MessageType::Command => matches!(self, Self::DMA_MAP | Self::DEVICE_SET_IRQS),
            MessageType::Reply => matches!(
                self,
                Self::VERSION | Self::DEVICE_GET_REGION_INFO | Self::DEVICE_GET_REGION_IO_FDS
            ),
        }
    }
}

impl fmt::Display for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown command {}", self.0),
        }
    }
}

/// The low four bits of the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// A request.
    Command,
    /// The answer to a request.
    Reply,
}

/// Flags of a header, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderFlags(pub u32);

impl HeaderFlags {
    const TYPE_MASK: u32 = 0xf;
    const TYPE_REPLY: u32 = 1;
    const NO_REPLY: u32 = 1 << 4;
    const ERROR: u32 = 1 << 5;

    /// A request that wants an answer.
    pub const COMMAND: Self = Self(0);
    /// A request that wants no answer.
    pub const COMMAND_NO_REPLY: Self = Self(Self::NO_REPLY);
    /// An answer.
    pub const REPLY: Self = Self(Self::TYPE_REPLY);
    /// An answer that reports an error.
    pub const REPLY_ERROR: Self = Self(Self::TYPE_REPLY | Self::ERROR);

    /// Command or reply; `None` for the types that the spec does not define.
    #[must_use]
    pub fn message_type(self) -> Option<MessageType> {
        match self.0 & Self::TYPE_MASK {
            0 => Some(MessageType::Command),
            Self::TYPE_REPLY => Some(MessageType::Reply),
            _ => None,
        }
    }

    /// The sender of this request wants no answer, not even an error.
    #[must_use]
    pub fn no_reply(self) -> bool {
        self.0 & Self::NO_REPLY != 0
    }

    /// This reply reports an error.
    #[must_use]
    pub fn error(self) -> bool {
        self.0 & Self::ERROR != 0
    }
}

/// A header inside the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender, echoed in the reply.
    pub id: MessageId,
    /// What is asked or answered.
    pub command: CommandCode,
    /// Bytes of the whole message, this header included.
    pub size: u32,
    /// Type, No_reply, Error.
    pub flags: HeaderFlags,
    /// Error number; means something only in a reply with the error flag.
    pub error: u32,
}

/// A header that ends the connection: after it the stream cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Smaller than the header itself.
    #[error("message size {size} of {command} is smaller than the header")]
    TooSmall {
        /// Command in the header.
        command: CommandCode,
        /// The size field.
        size: u32,
    },
    /// Larger than the limit.
    #[error("message size {size} of {command} is above the limit of {limit} bytes")]
    TooLarge {
        /// Command in the header.
        command: CommandCode,
        /// The size field.
        size: u32,
        /// The limit.
        limit: u32,
    },
    /// Neither a command nor a reply.
    #[error("message type {kind} of {command} is neither command nor reply")]
    Type {
        /// Command in the header.
        command: CommandCode,
        /// Low four bits of the flags.
        kind: u32,
    },
}

impl Header {
    /// Reads a header and holds it against the limits.
    ///
    /// # Errors
    /// The size is below 16 or above `max_message_bytes`, or the type is unknown.
    pub fn parse(bytes: &[u8; HEADER_BYTES], max_message_bytes: u32) -> Result<Self, HeaderError> {
        let [
            i0,
            i1,
            c0,
            c1,
            s0,
            s1,
            s2,
            s3,
            f0,
            f1,
            f2,
            f3,
            e0,
            e1,
            e2,
            e3,
        ] = *bytes;
        let command = CommandCode(u16::from_ne_bytes([c0, c1]));
        let size = u32::from_ne_bytes([s0, s1, s2, s3]);
        let flags = HeaderFlags(u32::from_ne_bytes([f0, f1, f2, f3]));
        if (size as usize) < HEADER_BYTES {
            return Err(HeaderError::TooSmall { command, size });
        }
        if size > max_message_bytes {
            return Err(HeaderError::TooLarge {
                command,
                size,
                limit: max_message_bytes,
            });
        }
        if flags.message_type().is_none() {
            return Err(HeaderError::Type {
                command,
                kind: flags.0 & HeaderFlags::TYPE_MASK,
            });
        }
        Ok(Self {
            id: MessageId(u16::from_ne_bytes([i0, i1])),
            command,
            size,
            flags,
            error: u32::from_ne_bytes([e0, e1, e2, e3]),
        })
    }

    /// The bytes of this header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let [i0, i1] = self.id.0.to_ne_bytes();
        let [c0, c1] = self.command.0.to_ne_bytes();
        let [s0, s1, s2, s3] = self.size.to_ne_bytes();
        let [f0, f1, f2, f3] = self.flags.0.to_ne_bytes();
        let [e0, e1, e2, e3] = self.error.to_ne_bytes();
        [
            i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, e0, e1, e2, e3,
        ]
    }

    /// Command or reply.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.flags.message_type().unwrap_or(MessageType::Reply)
    }

    /// The error of an error reply; EIO when it is no errno.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match i32::try_from(self.error) {
            Ok(errno @ 1..=4095) => Errno::from_raw_os_error(errno),
            Ok(_) | Err(_) => Errno::IO,
        }
    }

    /// Can this message have brought descriptors? Not one that reports an error, and not a
    /// DEVICE_GET_REGION_IO_FDS answer without entries.
    #[must_use]
    pub fn may_have_fds(&self) -> bool {
        const IO_FDS_WITHOUT_ENTRIES: u32 = 32;
        let empty = self.command == CommandCode::DEVICE_GET_REGION_IO_FDS
            && self.size == IO_FDS_WITHOUT_ENTRIES;
        let failed = self.message_type() == MessageType::Reply && self.flags.error();
        self.command.carries_fds(self.message_type()) && !failed && !empty
    }

    /// Bytes behind the header.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_BYTES)
    }
}
