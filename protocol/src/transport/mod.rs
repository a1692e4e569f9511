//! Whole messages and their file descriptors over a Unix stream socket.
//!
//! Spec: vfio-user, "Transport", "Header". Header, body and descriptors leave in one `sendmsg`; the descriptors of a
//! message are those that came in the same read as its first byte.
//! Nothing here looks behind the header. Every wait has a deadline; a message has one deadline in total.
//! Limits: `MAX_MESSAGE_BYTES`, `FIRST_READ_REQUEST_BYTES`, `FIRST_READ_REPLY_BYTES`, `KERNEL_MAX_FDS`.

mod framed;
mod sender;
mod receiver;
mod recv_error;
mod socket;
mod byte_stream;
mod deadline;

pub use crate::frame::Frame;
pub use byte_stream::ByteStream;
pub use deadline::Deadline;
pub use framed::Framed;
pub use receiver::{FrameReceiver, ReceiveLimits, Wait};
pub use recv_error::RecvError;
pub use sender::{FrameSender, Outgoing, Patience, SendError};
pub use socket::{SocketError, StreamSocket};
