//! DMA_READ and DMA_WRITE to the client: memory that cannot be mapped.
//!
//! Spec: vfio-user, "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE", "twin_socket".
//! With a twin socket the answers come there. Without, requests of the client can come first: they are set aside and
//! handed out by the next `next_event`. A client that does not answer in time ends the connection.
//! Limits: the client's `max_data_xfer_size` per message, `MAX_DMA_MESSAGES`, `MAX_STASHED_REQUESTS`,
//! `MAX_STASHED_BYTES`.

use super::config::CloseReason;
use super::connection::{Connection, SetAside};
use super::session::Session;
use crate::frame::Frame;
use crate::header::{CommandCode, Header, HeaderFlags, MessageType};
use crate::ids::{Iova, MessageId};
use crate::limits;
use crate::messages::dma_access;
use crate::refusal::BadField;
use crate::transport::{Deadline, Outgoing, Patience, Wait};
use rustix::io::Errno;

/// A DMA message did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The client refused; the connection lives.
    #[error("the client refused with errno {}", .0.raw_os_error())]
    Refused(Errno),
    /// The range wraps, or is too long for the client's message size.
    #[error("the range cannot be asked for")]
    Range,
    /// The connection is over.
    #[error("the connection is over: {0}")]
    Closed(#[source] CloseReason),
}

impl Connection {
    /// Reads client memory from `address` on.
    ///
    /// # Errors
    /// See [`DmaError`]; `data` may be filled in part.
    pub fn dma_read(&mut self, address: Iova, data: &mut [u8]) -> Result<(), DmaError> {
        let chunk_bytes = self.chunk_bytes(data.len())?;
        let mut at = address;
        for chunk in data.chunks_mut(chunk_bytes) {
            let header = self.ask(CommandCode::DMA_READ, at, chunk.len(), &[])?;
            let frame = self.answer(header);
            let copied = dma_access::decode_read_reply(frame.body, at, chunk.len())
                .map(|bytes| chunk.copy_from_slice(bytes));
            copied.map_err(|bad| self.senseless(CommandCode::DMA_READ, bad))?;
            at = advance(at, chunk.len())?;
        }
        Ok(())
    }

    /// Writes client memory from `address` on.
    ///
    /// # Errors
    /// See [`DmaError`]; a part may have been written.
    pub fn dma_write(&mut self, address: Iova, data: &[u8]) -> Result<(), DmaError> {
        let chunk_bytes = self.chunk_bytes(data.len())?;
        let mut at = address;
        for chunk in data.chunks(chunk_bytes) {
            let header = self.ask(CommandCode::DMA_WRITE, at, chunk.len(), chunk)?;
            let frame = self.answer(header);
            let checked = dma_access::decode_write_reply(frame.body, at, chunk.len());
            checked.map_err(|bad| self.senseless(CommandCode::DMA_WRITE, bad))?;
            at = advance(at, chunk.len())?;
        }
        Ok(())
    }

    /// Bytes per message; an access may not become more messages than the limit.
    fn chunk_bytes(&self, bytes: usize) -> Result<usize, DmaError> {
        let size = match (&self.session, self.closed) {
            (_, Some(reason)) => return Err(DmaError::Closed(reason)),
            (Session::Negotiated(agreement), None) => agreement.client.max_data_xfer_size,
            (Session::BeforeVersion | Session::Closed, None) => return Err(DmaError::Range),
        };
        let size = usize::try_from(size.min(limits::MAX_DATA_XFER_BYTES))
            .unwrap_or(1)
            .max(1);
        if bytes.div_ceil(size) > limits::MAX_DMA_MESSAGES {
            return Err(DmaError::Range);
        }
        Ok(size)
    }

    /// Sends one message and waits for its answer, which the receiver then holds.
    fn ask(
        &mut self,
        command: CommandCode,
        address: Iova,
        count: usize,
        data: &[u8],
    ) -> Result<Header, DmaError> {
        let deadline = Deadline::after(self.config.deadlines.dma);
        let id = MessageId(self.next_dma_id);
        self.next_dma_id = self.next_dma_id.wrapping_add(1);
        self.answers.head.clear();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        dma_access::encode_head(address, count, &mut self.answers.head);
        let message = Outgoing {
            id,
            command,
            flags: HeaderFlags::COMMAND,
            error: 0,
            head: &self.answers.head,
            data,
            fds: &[],
        };
        let sent = match &self.twin {
            Some(twin) => twin.send(&message, Patience::Until(deadline)),
            None => self
                .answers
                .sender
                .send(&message, Patience::Until(deadline)),
        };
        sent.map_err(|error| DmaError::Closed(self.close(CloseReason::Send(error))))?;
        let header = self
            .await_answer(deadline)
            .map_err(|reason| DmaError::Closed(self.close(reason)))?;
        if header.id != id || header.command != command {
            let bad = BadField::invalid("message id or command", header.id.0);
            return Err(self.senseless(command, bad));
        }
        if header.flags.error() {
            return Err(DmaError::Refused(header.errno()));
        }
        Ok(header)
    }

    /// Waits for a reply. Requests that come first on the main socket are set aside.
    fn await_answer(&mut self, deadline: Deadline) -> Result<Header, CloseReason> {
        loop {
            let wait = Wait::Until(deadline);
            let header = match &mut self.twin {
                Some(twin) => twin.wait(wait),
                None => self.receiver.wait(wait),
            }
            .map_err(CloseReason::Receive)?;
            if header.message_type() == MessageType::Reply {
                return Ok(header);
            }
            if self.twin.is_some() {
                let bad =
                    BadField::invalid("type (a request on the twin socket)", header.command.0);
                return Err(CloseReason::DmaReply {
                    command: header.command,
                    bad,
                });
            }
            self.set_aside(header)?;
        }
    }

    fn set_aside(&mut self, header: Header) -> Result<(), CloseReason> {
        let frame = self.receiver.take(header);
        let waiting: usize = self
            .set_aside
            .iter()
            .fold(frame.body.len(), |sum, request| {
                sum.saturating_add(request.body.len())
            });
        let full = self.set_aside.len() >= limits::MAX_STASHED_REQUESTS;
        if full || waiting > limits::MAX_STASHED_BYTES {
            return Err(CloseReason::TooManyRequests);
        }
        // Of too many descriptors, one too many are kept: decoding refuses the request by their number.
        let mut fds = frame.fds;
        let most = self.config.capabilities.max_msg_fds.saturating_add(1);
        fds.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        self.set_aside.push_back(SetAside {
            header,
            body: frame.body.to_vec(),
            fds,
            fds_on_body: frame.fds_on_body,
        });
        Ok(())
    }

    fn answer(&mut self, header: Header) -> Frame<'_> {
        match &mut self.twin {
            Some(twin) => twin.take(header),
            None => self.receiver.take(header),
        }
    }

    fn senseless(&mut self, command: CommandCode, bad: BadField) -> DmaError {
        DmaError::Closed(self.close(CloseReason::DmaReply { command, bad }))
    }
}

fn advance(at: Iova, bytes: usize) -> Result<Iova, DmaError> {
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| at.0.checked_add(bytes))
        .map(Iova)
        .ok_or(DmaError::Range)
}
