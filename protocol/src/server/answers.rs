//! Sends the answers of one connection.
//!
//! The answer to a read or write of a region is put together on the stack: no allocation, one `send`.

use crate::header::{CommandCode, Header, HeaderFlags};
use crate::ids::MessageId;
use crate::messages::region::RegionAccess;
use crate::messages::version::Capabilities;
use crate::reply::Reply;
use crate::transport::{FrameSender, Outgoing, Patience, SendError, StreamSocket};
use std::os::fd::AsFd;
use std::time::Duration;

/// Names a request in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestToken {
    id: MessageId,
    command: CommandCode,
    no_reply: bool,
}

impl RequestToken {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            id: header.id,
            command: header.command,
            no_reply: header.flags.no_reply(),
        }
    }

    /// The client wants no answer: [`Connection::reply`] sends none.
    #[must_use]
    pub fn no_reply(&self) -> bool {
        self.no_reply
    }

    /// Which command it was.
    #[must_use]
    pub fn command(&self) -> CommandCode {
        self.command
    }
}

/// Sends answers; apart from the receiver, whose buffer a request may still borrow.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) sender: FrameSender,
    pub(super) head: Vec<u8>,
    send_deadline: Duration,
    pub(super) peer_max_msg_fds: u32,
}

impl Answers {
    pub(super) fn new(socket: StreamSocket, send_deadline: Duration) -> Self {
        Self {
            sender: FrameSender::new(socket),
            head: Vec::new(),
            send_deadline,
            peer_max_msg_fds: Capabilities::UNSTATED.max_msg_fds,
        }
    }

    pub(super) fn send(&mut self, token: RequestToken, reply: Reply<'_>) -> Result<(), SendError> {
        if token.no_reply {
            return Ok(());
        }
        // The answer to an access is put together without the buffer.
        if let Reply::RegionRead {
            region,
            offset,
            data,
        } = reply
        {
            let count = u32::try_from(data.len()).map_err(|_| SendError::TooLarge)?;
            let head = RegionAccess {
                region,
                offset,
                count,
            };
            return self.send_whole(token, &head.to_bytes(), data);
        }
        if let Reply::RegionWrite(head) = reply {
            return self.send_whole(token, &head.to_bytes(), &[]);
        }
        self.send_encoded(token, reply)
    }

    fn send_whole(&self, token: RequestToken, head: &[u8], data: &[u8]) -> Result<(), SendError> {
        let message = Outgoing {
            id: token.id,
            command: token.command,
            flags: HeaderFlags::REPLY,
            error: 0,
            head,
            data,
            fds: &[],
        };
        self.sender
            .send(&message, Patience::For(self.send_deadline))
    }

    fn send_encoded(&mut self, token: RequestToken, reply: Reply<'_>) -> Result<(), SendError> {
        self.head.clear();
        let parts = reply.encode(self.peer_max_msg_fds, &mut self.head);
        let (flags, error) = if let Reply::Error(errno) = reply {
            (
                HeaderFlags::REPLY_ERROR,
                errno.raw_os_error().unsigned_abs(),
            )
        } else {
            (HeaderFlags::REPLY, 0)
        };
        let lent = parts.fds.iter().map(AsFd::as_fd);
        let fds: Vec<_> = parts.fd.into_iter().chain(lent).collect();
        self.sender.send(
            &Outgoing {
                id: token.id,
                command: token.command,
                flags,
                error,
                head: &self.head,
                data: parts.data,
                fds: &fds,
            },
            Patience::For(self.send_deadline),
        )
    }
}
