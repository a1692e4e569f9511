//! Why no message came.

use crate::header::HeaderError;
use rustix::io::Errno;

/// No message. Only after `NotYet`, and after `Deadline` with nothing started, can the connection go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// `Wait::Now`, and no whole message is there.
    #[error("no whole message is there yet")]
    NotYet,
    /// The deadline passed before the first byte.
    #[error("no message came before the deadline")]
    Deadline,
    /// The deadline passed in the middle of a message.
    #[error("the message did not end before its deadline, after {received} bytes")]
    Stalled {
        /// Bytes that came.
        received: usize,
    },
    /// The peer closed between two messages.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer closed in the middle of a message.
    #[error("the peer closed the connection in the middle of a message, after {received} bytes")]
    Truncated {
        /// Bytes that came.
        received: usize,
    },
    /// The header is outside the limits.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The kernel dropped descriptors, most likely because this process has too many open.
    #[error("file descriptors of the message were lost, too many are open")]
    FdsLost,
    /// Descriptors came that could belong to two messages.
    #[error("file descriptors came that could belong to either of two messages")]
    FdsAmbiguous,
    /// What the peer sent does not close: it may be a file of FUSE whose process does not answer.
    #[error("a file descriptor of the peer does not close")]
    FdsHeld,
    /// The kernel refused.
    #[error("recvmsg failed")]
    Io(#[source] Errno),
}
