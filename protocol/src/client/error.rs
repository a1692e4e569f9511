//! What can go wrong with a request, and with the whole device.

use crate::header::CommandCode;
use crate::refusal::BadField;
use crate::transport::{RecvError, SendError, SocketError};
use rustix::io::Errno;

/// A request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an error; the connection lives.
    #[error("the device server refused {command}: {}", errno_text(.errno))]
    Refused {
        /// What was asked.
        command: CommandCode,
        /// What it answered.
        errno: Errno,
    },
    /// The answer holds together as a message, but not in what it says; the connection lives.
    #[error("the device server's answer to {command} makes no sense: {bad}")]
    BadAnswer {
        /// What was asked.
        command: CommandCode,
        /// What is wrong.
        bad: BadField,
    },
    /// A request with a long deadline, such as a reset, is not answered yet.
    #[error("{command} was not sent: the device is being reset")]
    Busy {
        /// What was asked.
        command: CommandCode,
    },
    /// More requests are in flight than the table holds.
    #[error("{command} was not sent: too many requests are in flight")]
    TooManyInFlight {
        /// What was asked.
        command: CommandCode,
    },
    /// What was asked cannot be sent to this server.
    #[error("{command} was not sent: {what}")]
    Unsendable {
        /// What was asked.
        command: CommandCode,
        /// Why.
        what: &'static str,
    },
    /// The socket given to `connect` is none.
    #[error("cannot talk to the device server")]
    Socket(#[source] SocketError),
    /// The kernel did not give what the client needs.
    #[error("cannot watch the device server's socket: {}", errno_text(.0))]
    Watch(Errno),
    /// The connection is over.
    #[error("the device is lost")]
    Lost(#[source] LostCause),
}

/// Why a device is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostCause {
    /// It did not answer in time.
    #[error("no answer to {command} before the deadline")]
    Deadline {
        /// What was asked.
        command: CommandCode,
    },
    /// The server closed the connection.
    #[error("the device server closed the connection")]
    Closed,
    /// The stream cannot be followed any more.
    #[error("receiving from the device server")]
    Receive(#[source] RecvError),
    /// The server does not take requests any more.
    #[error("sending {command}")]
    Send {
        /// What was asked.
        command: CommandCode,
        /// What happened.
        #[source]
        error: SendError,
    },
    /// The server broke the rules.
    #[error("the device server broke the protocol: {what} ({command})")]
    Protocol {
        /// The message.
        command: CommandCode,
        /// What is wrong with it.
        what: &'static str,
    },
    /// We ended it.
    #[error("the connection was shut down")]
    Shutdown,
}

fn errno_text(errno: &Errno) -> std::io::Error {
    std::io::Error::from(*errno)
}
