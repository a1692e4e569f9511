//! What a client does with each thing that happens on its connection. Pure: no socket, no thread.
//!
//! Spec: vfio-user, "VFIO_USER_VERSION", "Command Concurrency", "twin_socket", "Socket Disconnection Behavior".
//! A server that breaks the order of messages, ends, or lets a deadline pass loses its device, for good.

use super::error::LostCause;
use crate::header::{CommandCode, Header, MessageType};
use crate::ids::MessageId;
use crate::limits;
use crate::transport::{RecvError, SendError};

/// The id of our VERSION.
pub(super) const VERSION_ID: MessageId = MessageId(0);

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// VERSION is sent; nothing but its answer is taken.
    Proposed,
    /// Answers come on the main socket; requests of the server on the twin, or, without one, between the answers.
    Running {
        /// There is a second socket for the server's requests.
        twin: bool,
    },
    /// Nothing is taken any more.
    Lost(LostCause),
}

/// Which socket something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    Main,
    Twin,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A whole message came.
    Message {
        header: Header,
        socket: Socket,
        /// File descriptors that came with it.
        fds: usize,
        /// A request in flight waits for it.
        awaited: bool,
    },
    /// Nothing more can be read.
    Receive {
        error: RecvError,
        /// What the reader waited for, if it waited.
        command: Option<CommandCode>,
    },
    /// A message could not be sent.
    Send {
        error: SendError,
        command: CommandCode,
    },
    /// A request was not answered in time.
    Late { command: CommandCode },
    /// We end it.
    Shutdown,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Hold the answer to VERSION against what was proposed.
    Agree,
    /// Give the answer to its request.
    Deliver,
    /// Do what the server asks, and answer it on the socket it came from.
    Serve,
    /// End the connection.
    Lose(LostCause),
}

impl Session {
    /// The next state and what to do.
    pub(super) fn on(self, event: Event) -> (Self, Action) {
        let cause = match (self, event) {
            (Self::Lost(first), _) => first,
            (_, Event::Shutdown) => LostCause::Shutdown,
            (_, Event::Late { command }) => LostCause::Deadline { command },
            (_, Event::Receive { error, command }) => receiving(error, command),
            (_, Event::Send { error, command }) => sending(error, command),
            (Self::Proposed, Event::Message { header, .. }) => {
                if answers_version(&header) {
                    // What it says decides whether there is a twin.
                    return (Self::Running { twin: false }, Action::Agree);
                }
                broke(&header, "the first message is no answer to VERSION")
            }
            (
                Self::Running { twin },
                Event::Message {
                    header,
                    socket,
                    fds,
                    awaited,
                },
            ) => match message(&header, socket, fds, awaited, twin) {
                Ok(action) => return (self, action),
                Err(what) => broke(&header, what),
            },
        };
        (Self::Lost(cause), Action::Lose(cause))
    }
}

fn answers_version(header: &Header) -> bool {
    header.message_type() == MessageType::Reply
        && header.id == VERSION_ID
        && header.command == CommandCode::VERSION
}

/// What a message is for, or which rule it breaks.
fn message(
    header: &Header,
    socket: Socket,
    fds: usize,
    awaited: bool,
    twin: bool,
) -> Result<Action, &'static str> {
    if usize::try_from(limits::MAX_MSG_FDS).is_ok_and(|most| fds > most) {
        return Err("more file descriptors than we take");
    }
    match (header.message_type(), socket) {
        (MessageType::Command, Socket::Main) if twin => {
            Err("a request on the main socket although there is a twin")
        }
        (MessageType::Command, Socket::Main | Socket::Twin) => Ok(Action::Serve),
        (MessageType::Reply, Socket::Twin) => Err("an answer on the twin socket"),
        (MessageType::Reply, Socket::Main) if awaited => Ok(Action::Deliver),
        (MessageType::Reply, Socket::Main) => Err("an answer to nothing"),
    }
}

fn broke(header: &Header, what: &'static str) -> LostCause {
    LostCause::Protocol {
        command: header.command,
        what,
    }
}

fn receiving(error: RecvError, command: Option<CommandCode>) -> LostCause {
    match (error, command) {
        (RecvError::Deadline | RecvError::Stalled { .. }, Some(command)) => {
            LostCause::Deadline { command }
        }
        (RecvError::Closed, _) => LostCause::Closed,
        _ => LostCause::Receive(error),
    }
}

fn sending(error: SendError, command: CommandCode) -> LostCause {
    match error {
        SendError::Closed => LostCause::Closed,
        SendError::Deadline => LostCause::Deadline { command },
        SendError::TooLarge | SendError::Io(_) => LostCause::Send { command, error },
    }
}

#[cfg(test)]
mod tests;
