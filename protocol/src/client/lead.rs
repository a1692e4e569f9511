//! The thread that leads reads for all: its own answer, those of others, and what the server asks.

use super::engine::Engine;
use super::error::LostCause;
use super::in_flight::{Due, Ticket};
use super::session::{Action, Event, Socket};
use crate::header::{CommandCode, Header, MessageType};
use crate::limits;
use crate::transport::{Deadline, FrameReceiver, Patience, RecvError, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

impl Engine {
    /// Reads for all until the ticket's own answer is whole in the receiver.
    pub(super) fn lead(
        &self,
        receiver: &mut FrameReceiver,
        ticket: &Ticket,
    ) -> Result<Header, LostCause> {
        let command = ticket.command;
        if self.clock.get().is_some() {
            receiver.forget_timer();
        }
        let mut flood = match ticket.due {
            Due::At(deadline) => Some(deadline),
            Due::Tick(_) => None,
        };
        loop {
            self.await_main(receiver, ticket)?;
            let header = match receiver.wait(ticket.wait()) {
                Ok(header) => header,
                Err(error) => {
                    receiver.close_fds();
                    return Err(self.receive_failed(error, command));
                }
            };
            if header.message_type() == MessageType::Reply && ticket.is_answered_by(&header) {
                self.judge_message(receiver, header, true)?;
                return Ok(header);
            }
            self.handle(receiver, header, Patience::For(limits::SEND_DEADLINE))?;
            // A peer that never stops sending does not stop the clock, whether or not the event loop looks at it.
            let until = flood.get_or_insert_with(|| Deadline::after(ticket.time));
            if until.remaining().is_none() {
                return Err(self.lose(Event::Late { command }));
            }
        }
    }

    /// With a twin socket, waits on both and serves the twin until the main one has something. Not where an event loop
    /// serves it.
    fn await_main(&self, receiver: &FrameReceiver, ticket: &Ticket) -> Result<(), LostCause> {
        let Some(twin) = self.twin.as_ref().filter(|_| self.clock.get().is_none()) else {
            return Ok(());
        };
        let command = ticket.command;
        while !receiver.has_buffered() {
            let left = match ticket.due {
                Due::At(deadline) => deadline.remaining(),
                Due::Tick(_) => Some(ticket.time),
            };
            let Some(left) = left else {
                return Err(self.lose(Event::Late { command }));
            };
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&twin.socket, PollFlags::IN),
            ];
            let left = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            });
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(self.receive_failed(RecvError::Io(error), command)),
            }
            let [main, twin_fd] = fds;
            if !twin_fd.revents().is_empty() {
                self.serve_twin(twin, Patience::For(limits::SEND_DEADLINE))?;
            }
            if !main.revents().is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn receive_failed(&self, error: RecvError, command: CommandCode) -> LostCause {
        let command = Some(command);
        self.lose(Event::Receive { error, command })
    }

    /// Deals with a message of the main socket that is not the leader's own answer.
    fn handle(
        &self,
        receiver: &mut FrameReceiver,
        header: Header,
        patience: Patience,
    ) -> Result<(), LostCause> {
        let awaited = self.in_flight.awaits(&header);
        let action = self.judge_message(receiver, header, awaited)?;
        let frame = receiver.take(header);
        if action == Action::Serve {
            return self.serve(&frame, &self.sender, patience);
        }
        self.in_flight.deliver(frame);
        Ok(())
    }

    fn judge_message(
        &self,
        receiver: &mut FrameReceiver,
        header: Header,
        awaited: bool,
    ) -> Result<Action, LostCause> {
        let event = Event::Message {
            header,
            socket: Socket::Main,
            fds: receiver.fd_count(),
            awaited,
        };
        match self.judge(event) {
            Action::Lose(cause) => {
                // The client may be kept for long.
                receiver.close_fds();
                Err(cause)
            }
            action @ (Action::Agree | Action::Deliver | Action::Serve) => Ok(action),
        }
    }

    /// Takes what has come on the main socket, without waiting for anything, unless another thread leads: it reads
    /// everything.
    pub(super) fn read_what_came(&self) -> Result<(), LostCause> {
        let Some(mut receiver) = self.in_flight.try_lead() else {
            return Ok(());
        };
        let read = self.read_some(&mut receiver);
        self.in_flight.stop_leading(receiver);
        read
    }

    fn read_some(&self, receiver: &mut FrameReceiver) -> Result<(), LostCause> {
        for _ in 0..limits::MAX_SERVED_PER_CALL {
            match receiver.wait(Wait::Now) {
                Ok(header) => self.handle(receiver, header, Patience::None)?,
                Err(RecvError::NotYet) => return Ok(()),
                Err(error) => {
                    receiver.close_fds();
                    return Err(self.lose(Event::Receive {
                        error,
                        command: None,
                    }));
                }
            }
        }
        Ok(())
    }
}
