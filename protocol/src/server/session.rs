//! What a server does with each message, by what was agreed so far. Pure: no socket, no device.
//!
//! Spec: vfio-user, "VFIO_USER_VERSION": the first message, once; everything else after it.
//! An error before VERSION ends the connection, as does a reply to nothing.

use crate::command::DecodeContext;
use crate::header::CommandCode;
use crate::limits;
use crate::messages::version::{Capabilities, TwinSocket, Version};
use crate::refusal::{BadField, Refusal};
use rustix::io::Errno;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Only VERSION is taken.
    BeforeVersion,
    /// Everything but VERSION is taken.
    Negotiated(Agreement),
    /// Nothing is taken any more.
    Closed,
}

/// What both sides can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What the reply to VERSION says; its twin socket has no descriptor yet.
    pub reply: Version,
    /// What bounds the client's requests.
    pub context: DecodeContext,
    /// What the client announced.
    pub client: Capabilities,
}

/// Something that the client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A VERSION that holds together.
    Version {
        /// What it says.
        version: Version,
        /// It asks not to be answered.
        no_reply: bool,
    },
    /// Another request that holds together.
    Request(CommandCode),
    /// A request that does not.
    Refused(Refusal),
    /// A reply that nobody waits for.
    Reply(CommandCode),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAction {
    /// Answer VERSION.
    Agree(Agreement),
    /// Give it to the device.
    Dispatch,
    /// Answer with the error; the connection lives unless the refusal says otherwise.
    Refuse(Refusal),
    /// End the connection without an answer.
    Close(Refusal),
}

impl Session {
    /// The next state and what to do. `ours` is what this server announces.
    #[must_use]
    pub fn on(self, event: SessionEvent, ours: &Capabilities) -> (Self, SessionAction) {
        match (self, event) {
            (Self::Closed, event) => (Self::Closed, SessionAction::Close(unexpected(event))),
            (_, SessionEvent::Reply(_)) => (Self::Closed, SessionAction::Close(unexpected(event))),
            (
                Self::BeforeVersion,
                SessionEvent::Version {
                    version,
                    no_reply: false,
                },
            ) => match agree(&version, ours) {
                Ok(agreement) => (Self::Negotiated(agreement), SessionAction::Agree(agreement)),
                Err(bad) => {
                    let refusal = Refusal::new(CommandCode::VERSION, bad).closing();
                    (Self::Closed, SessionAction::Refuse(refusal))
                }
            },
            (Self::BeforeVersion, SessionEvent::Version { no_reply: true, .. }) => {
                (Self::Closed, SessionAction::Close(unexpected(event)))
            }
            (Self::BeforeVersion, SessionEvent::Request(_)) => {
                let refusal = unexpected(event).closing();
                (Self::Closed, SessionAction::Refuse(refusal))
            }
            (Self::BeforeVersion, SessionEvent::Refused(refusal)) => {
                (Self::Closed, SessionAction::Refuse(refusal.closing()))
            }
            (Self::Negotiated(_), SessionEvent::Request(_)) => (self, SessionAction::Dispatch),
            (Self::Negotiated(_), SessionEvent::Version { .. }) => {
                (self, SessionAction::Refuse(unexpected(event)))
            }
            (Self::Negotiated(_), SessionEvent::Refused(refusal)) => {
                let open = Refusal {
                    close: false,
                    ..refusal
                };
                (self, SessionAction::Refuse(open))
            }
        }
    }
}

fn unexpected(event: SessionEvent) -> Refusal {
    let (command, field) = match event {
        SessionEvent::Version { no_reply: true, .. } => {
            (CommandCode::VERSION, "flags (No_reply on VERSION)")
        }
        SessionEvent::Version { .. } => (CommandCode::VERSION, "command (VERSION came before)"),
        SessionEvent::Request(command) => (command, "command (before VERSION)"),
        SessionEvent::Refused(refusal) => return refusal,
        SessionEvent::Reply(command) => (command, "type (a reply to nothing)"),
    };
    Refusal::new(command, BadField::invalid(field, command.0))
}

fn agree(theirs: &Version, ours: &Capabilities) -> Result<Agreement, BadField> {
    if theirs.major != limits::VERSION_MAJOR {
        return Err(BadField::invalid("major", theirs.major));
    }
    let client = theirs.capabilities;
    let pgsizes = ours.pgsizes & client.pgsizes;
    if pgsizes == 0 {
        return Err(BadField::invalid("pgsizes", client.pgsizes).with_errno(Errno::INVAL));
    }
    let twin = ours.twin_socket == TwinSocket::Supported
        && client.twin_socket == TwinSocket::Supported
        && client.max_msg_fds > 0;
    let write_multiple = ours.write_multiple && client.write_multiple;
    let capabilities = Capabilities {
        max_dma_maps: ours.max_dma_maps.min(client.max_dma_maps),
        pgsizes,
        twin_socket: if twin {
            TwinSocket::Supported
        } else {
            TwinSocket::Unsupported
        },
        write_multiple,
        migration: ours.migration.filter(|_| client.migration.is_some()),
        ..*ours
    };
    Ok(Agreement {
        reply: Version {
            major: limits::VERSION_MAJOR,
            minor: theirs.minor.min(limits::VERSION_MINOR),
            capabilities,
        },
        context: DecodeContext {
            max_msg_fds: ours.max_msg_fds,
            max_data_xfer_size: ours.max_data_xfer_size,
            peer_max_data_xfer_size: client.max_data_xfer_size,
            write_multiple,
        },
        client,
    })
}

#[cfg(test)]
mod tests;
