//! What the server sends unasked: its requests, on the main socket or on the twin, and the end of the stream.

use super::engine::{Engine, Twin, lock, sending};
use super::error::LostCause;
use super::serve::Served;
use crate::frame::Frame;
use crate::header::{CommandCode, MessageType};
use crate::limits;
use crate::transport::{
    Deadline, FrameReceiver, FrameSender, Outgoing, RecvError, StreamSocket, Wait,
};
use rustix::event::epoll;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

impl Engine {
    /// Answers one request of the server.
    pub(super) fn serve(
        &self,
        frame: &Frame<'_>,
        sender: &Mutex<FrameSender>,
    ) -> Result<(), LostCause> {
        let command = frame.header.command;
        self.counters.count(command);
        let mut scratch = self.dma.scratch();
        let Served {
            flags,
            error,
            head,
            data,
        } = self.dma.serve(frame, &mut scratch);
        if frame.header.flags.no_reply() {
            return Ok(());
        }
        let message = Outgoing {
            id: frame.header.id,
            command,
            flags,
            error,
            head,
            data,
            fds: &[],
        };
        let deadline = Deadline::after(limits::SEND_DEADLINE);
        let sent = lock(sender).send(&message, deadline);
        sent.map_err(|error| self.lose(sending(command, error)))
    }

    /// Answers what came on the twin socket; does not wait for more.
    pub(super) fn serve_twin(&self, twin: &Twin) -> Result<(), LostCause> {
        let mut receiver = lock(&twin.receiver);
        for _ in 0..limits::MAX_SERVED_PER_CALL {
            let header = match receiver.wait(Wait::Now) {
                Ok(header) => header,
                Err(RecvError::NotYet) => return Ok(()),
                Err(error) => return Err(self.receive_failed(error, CommandCode::DMA_READ)),
            };
            if header.message_type() == MessageType::Reply {
                return Err(self.broke(header, "an answer on the twin socket"));
            }
            self.check_fds(&receiver, header)?;
            self.serve(&receiver.take(header), &twin.sender)?;
        }
        Ok(())
    }

    /// Answers what came, without waiting for more.
    pub(super) fn service(&self) -> Result<(), LostCause> {
        if let Some(cause) = self.lost() {
            return Err(cause);
        }
        if let Some(twin) = &self.twin {
            self.serve_twin(twin)?;
        }
        if !self.in_flight.try_lead() {
            // Whoever leads reads everything.
            return Ok(());
        }
        let mut receiver = lock(&self.receiver);
        let served = self.serve_main(&mut receiver);
        drop(receiver);
        self.in_flight.stop_leading();
        served
    }

    fn serve_main(&self, receiver: &mut FrameReceiver) -> Result<(), LostCause> {
        for _ in 0..limits::MAX_SERVED_PER_CALL {
            match receiver.wait(Wait::Now) {
                Ok(header) => self.handle(receiver, header)?,
                Err(RecvError::NotYet) => return Ok(()),
                Err(error) => return Err(self.receive_failed(error, CommandCode(0))),
            }
        }
        Ok(())
    }
}

/// An epoll that is readable when `service` has something to do. Answers to requests do not count where the server
/// cannot send requests: every access would wake the event loop.
pub(super) fn watch(
    main: &StreamSocket,
    twin: Option<&Twin>,
    requests_on_main: bool,
) -> Result<OwnedFd, Errno> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut events = epoll::EventFlags::RDHUP;
    if requests_on_main {
        events |= epoll::EventFlags::IN;
    }
    epoll::add(&watch, main, epoll::EventData::new_u64(0), events)?;
    if let Some(twin) = twin {
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&watch, &twin.socket, epoll::EventData::new_u64(1), events)?;
    }
    Ok(watch)
}
