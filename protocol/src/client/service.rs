//! What the server sends unasked: its requests, on the main socket or on the twin, and the end of the stream.

use super::engine::{Engine, Twin, lock, sending};
use super::error::LostCause;
use super::serve::Served;
use crate::frame::Frame;
use crate::header::{CommandCode, MessageType};
use crate::limits;
use crate::transport::{
    FrameReceiver, FrameSender, Outgoing, Patience, RecvError, StreamSocket, Wait,
};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
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
        let sent = lock(sender).send(&message, Patience::For(limits::SEND_DEADLINE));
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
        self.look_at_the_clock()?;
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

    /// From now on reads do not end by themselves: the timer makes the event loop call `service`, which looks.
    pub(super) fn rely_on_service(&self) -> Result<(), Errno> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let period = Timespec::try_from(limits::WATCH_PERIOD).map_err(|_| Errno::INVAL)?;
        let periodic = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &periodic)?;
        epoll::add(
            &self.watch,
            &timer,
            epoll::EventData::new_u64(2),
            epoll::EventFlags::IN,
        )?;
        self.clock.set(timer).map_err(|_| Errno::ALREADY)?;
        lock(&self.receiver).remove_timer()
    }

    /// Loses the device if a request in flight is late.
    fn look_at_the_clock(&self) -> Result<(), LostCause> {
        let Some(timer) = self.clock.get() else {
            return Ok(());
        };
        let mut ticks = [0; 8];
        if rustix::io::read(timer, &mut ticks).is_err() {
            // It has not ticked.
            return Ok(());
        }
        match self.in_flight.late() {
            Some(command) => Err(self.lose(LostCause::Deadline { command })),
            None => Ok(()),
        }
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
