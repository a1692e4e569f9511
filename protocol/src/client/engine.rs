//! Sends requests, hands out their answers, and knows when the device is lost.

use super::counters::{Counters, MessageCounters};
use super::error::{ClientError, LostCause};
use super::in_flight::{InFlight, Lead, POSTED_ID, Ticket, Turn};
use super::serve::Server;
use super::service::watch;
use super::session::{Action, Event, Session};
use crate::header::{CommandCode, HeaderFlags};
use crate::ids::MessageId;
use crate::messages::version::Capabilities;
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;
use crate::transport::{FrameReceiver, FrameSender, Outgoing, Patience, StreamSocket};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A request, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) command: CommandCode,
    pub(super) head: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) fds: &'a [BorrowedFd<'a>],
    /// How long the answer may take.
    pub(super) time: Duration,
    /// The event loop, where there is one, looks whether it is late.
    pub(super) minded: bool,
}

/// The second socket, for the server's requests.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) socket: StreamSocket,
    pub(super) receiver: Mutex<FrameReceiver>,
    pub(super) sender: FrameSender,
}

/// The machinery of one connection.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) socket: StreamSocket,
    pub(super) sender: FrameSender,
    pub(super) twin: Option<Twin>,
    /// Watches both sockets; what an event loop polls.
    pub(super) watch: OwnedFd,
    /// Ticks while accesses rely on `service`.
    pub(super) clock: OnceLock<OwnedFd>,
    pub(super) in_flight: InFlight,
    /// Held by the thread that waits for a slow request.
    pub(super) slow_waiter: Mutex<()>,
    lost: OnceLock<LostCause>,
    pub(super) dma: Server,
    server: Capabilities,
    /// How long the server may keep a message from being sent.
    send_time: Duration,
    pub(super) counters: Counters,
}

/// What negotiation leaves behind.
pub(super) struct Negotiated {
    pub(super) socket: StreamSocket,
    pub(super) receiver: FrameReceiver,
    pub(super) twin: Option<(StreamSocket, FrameReceiver)>,
    pub(super) server: Capabilities,
    pub(super) dma: Server,
    pub(super) send_time: Duration,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(super) fn new(parts: Negotiated) -> Result<Self, Errno> {
        let twin = parts.twin.map(|(socket, receiver)| Twin {
            receiver: Mutex::new(receiver),
            sender: FrameSender::new(socket.clone()),
            socket,
        });
        let requests_on_main = twin.is_none() && parts.dma.has_handler();
        let watch = watch(&parts.socket, twin.as_ref(), requests_on_main)?;
        let counters = Counters::default();
        counters.count(CommandCode::VERSION);
        Ok(Self {
            sender: FrameSender::new(parts.socket.clone()),
            twin,
            watch,
            clock: OnceLock::new(),
            in_flight: InFlight::new(parts.receiver),
            slow_waiter: Mutex::new(()),
            lost: OnceLock::new(),
            dma: parts.dma,
            server: parts.server,
            send_time: parts.send_time,
            counters,
            socket: parts.socket,
        })
    }

    pub(super) fn server(&self) -> &Capabilities {
        &self.server
    }

    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    pub(super) fn lost(&self) -> Option<LostCause> {
        self.lost.get().copied()
    }

    pub(super) fn counters(&self) -> MessageCounters {
        self.counters.read()
    }

    /// Lets the session judge what happened. When it is lost, the connection ends here.
    pub(super) fn judge(&self, event: Event) -> Action {
        let session = match self.lost() {
            Some(cause) => Session::Lost(cause),
            None => Session::Running {
                twin: self.twin.is_some(),
            },
        };
        let (next, action) = session.on(event);
        if let Session::Lost(cause) = next {
            return Action::Lose(self.end(cause));
        }
        action
    }

    /// Declares the device lost by something that is no message.
    pub(super) fn lose(&self, event: Event) -> LostCause {
        match self.judge(event) {
            Action::Lose(cause) => cause,
            // No such event leaves a session running.
            Action::Agree | Action::Deliver | Action::Serve => self.end(LostCause::Shutdown),
        }
    }

    /// The first cause stays.
    fn end(&self, cause: LostCause) -> LostCause {
        let first = *self.lost.get_or_init(|| cause);
        self.socket.shut_down();
        if let Some(twin) = &self.twin {
            twin.socket.shut_down();
        }
        self.in_flight.wake_all();
        first
    }

    /// Sends a request and hands its answer to `read`.
    pub(super) fn call<R>(
        &self,
        call: &Call<'_>,
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        let (ticket, mut lead) = self.ticket(call)?;
        let sent = self.send(call, ticket.id, HeaderFlags::COMMAND, &mut || {
            // The server may have to get rid of its answers before it reads on.
            if let Some(lead) = lead.take() {
                self.in_flight.stop_leading(lead);
            }
        });
        let result = match (sent, lead) {
            (Ok(()), Some(lead)) => self.lead_to_answer(lead, &ticket, read),
            (Ok(()), None) => self.await_answer(&ticket, read),
            (Err(cause), lead) => {
                self.in_flight.abandon(&ticket);
                if let Some(lead) = lead {
                    self.in_flight.stop_leading(lead);
                }
                Err(ClientError::Lost(cause))
            }
        };
        if let Err(ClientError::Refused { command, .. }) = result {
            self.counters.count_refused(command);
        }
        result
    }

    pub(super) fn ticket(&self, call: &Call<'_>) -> Result<(Ticket, Option<Lead>), ClientError> {
        let minded = call.minded && self.clock.get().is_some();
        let begin = || self.in_flight.begin(call.command, call.time, minded);
        begin().or_else(|_| {
            // The answer to the slow request may have come.
            self.look_for_the_slow_answer()?;
            begin().map_err(|reason| reason.for_command(call.command))
        })
    }

    /// Sends a request that is not answered.
    pub(super) fn post(&self, call: &Call<'_>) -> Result<(), ClientError> {
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        self.send(call, POSTED_ID, HeaderFlags::COMMAND_NO_REPLY, &mut || ())
            .map_err(ClientError::Lost)
    }

    /// `before_waiting` is called if the socket is full or another thread sends.
    pub(super) fn send(
        &self,
        call: &Call<'_>,
        id: MessageId,
        flags: HeaderFlags,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), LostCause> {
        let command = call.command;
        self.counters.count(command);
        let message = Outgoing {
            id,
            command,
            flags,
            error: 0,
            head: call.head,
            data: call.data,
            fds: call.fds,
        };
        // Whatever the answer may take: other requests wait behind this one.
        let patience = Patience::For(self.send_time);
        let sent = self
            .sender
            .send_and_tell(&message, patience, before_waiting);
        sent.map_err(|error| self.lose(Event::Send { error, command }))
    }

    /// Waits until nobody else reads.
    pub(super) fn await_lead(&self, ticket: &Ticket) -> Result<Lead, ClientError> {
        let command = ticket.command;
        loop {
            if let Some(cause) = self.lost() {
                self.in_flight.abandon(ticket);
                return Err(ClientError::Lost(cause));
            }
            match self.in_flight.turn(ticket, || self.lost.get().is_some()) {
                Turn::Lead(lead) => return Ok(lead),
                Turn::Late => {
                    self.lose(Event::Late { command });
                }
                Turn::Answered => {
                    // The next round abandons the ticket.
                    self.end(LostCause::Protocol {
                        command,
                        what: "an answer before its request",
                    });
                }
                Turn::Woken => {}
            }
        }
    }

    fn await_answer<R>(
        &self,
        ticket: &Ticket,
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let command = ticket.command;
        loop {
            if let Some(cause) = self.lost() {
                self.in_flight.abandon(ticket);
                return Err(ClientError::Lost(cause));
            }
            match self.in_flight.turn(ticket, || self.lost.get().is_some()) {
                Turn::Woken => {}
                Turn::Late => {
                    self.lose(Event::Late { command });
                }
                Turn::Answered => {
                    let Some(answer) = self.in_flight.collect(ticket) else {
                        continue;
                    };
                    let result =
                        answered(command, answer.result, || read(&answer.body, answer.fds));
                    self.in_flight.finish(ticket, answer.body);
                    return result;
                }
                Turn::Lead(lead) => return self.lead_to_answer(lead, ticket, read),
            }
        }
    }

    fn lead_to_answer<R>(
        &self,
        mut lead: Lead,
        ticket: &Ticket,
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let result = match self.lead(&mut lead, ticket) {
            Ok(header) => {
                let frame = lead.take(header);
                let failed = header.flags.error();
                let result = if failed { Err(header.errno()) } else { Ok(()) };
                answered(ticket.command, result, || read(frame.body, frame.fds))
            }
            Err(cause) => Err(ClientError::Lost(cause)),
        };
        self.in_flight.finish_leading(lead, ticket);
        result
    }
}

pub(super) fn answered<R>(
    command: CommandCode,
    result: Result<(), Errno>,
    read: impl FnOnce() -> Result<R, BadField>,
) -> Result<R, ClientError> {
    result.map_err(|errno| ClientError::Refused { command, errno })?;
    read().map_err(|bad| ClientError::BadAnswer { command, bad })
}
