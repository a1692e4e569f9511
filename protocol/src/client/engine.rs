//! Sends requests, reads for all threads, and knows when the device is lost.

use super::counters::{Counters, MessageCounters};
use super::error::{ClientError, LostCause};
use super::in_flight::{InFlight, NoTicket, POSTED_ID, Pace, Ticket, Turn};
use super::serve::Server;
use super::service::watch;
use crate::header::{CommandCode, Header, HeaderFlags, MessageType};
use crate::ids::MessageId;
use crate::limits;
use crate::messages::version::Capabilities;
use crate::refusal::BadField;
use crate::transport::{
    FrameReceiver, FrameSender, Outgoing, Patience, RecvError, SendError, StreamSocket, Wait,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
    pub(super) pace: Pace,
    pub(super) time: Duration,
}

/// The second socket, for the server's requests.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) socket: StreamSocket,
    pub(super) receiver: Mutex<FrameReceiver>,
    pub(super) sender: Mutex<FrameSender>,
}

/// The machinery of one connection.
#[derive(Debug)]
pub(super) struct Engine {
    socket: StreamSocket,
    /// Held while a message is sent: messages must not mix.
    pub(super) sender: Mutex<FrameSender>,
    /// Held by the thread that leads.
    pub(super) receiver: Mutex<FrameReceiver>,
    pub(super) twin: Option<Twin>,
    /// Watches both sockets; what an event loop polls.
    pub(super) watch: OwnedFd,
    /// Ticks while accesses rely on `service`.
    pub(super) clock: OnceLock<OwnedFd>,
    pub(super) in_flight: InFlight,
    lost: OnceLock<LostCause>,
    pub(super) dma: Server,
    server: Capabilities,
    pub(super) counters: Counters,
}

/// What negotiation leaves behind.
pub(super) struct Negotiated {
    pub(super) socket: StreamSocket,
    pub(super) receiver: FrameReceiver,
    pub(super) twin: Option<(StreamSocket, FrameReceiver)>,
    pub(super) server: Capabilities,
    pub(super) dma: Server,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(super) fn new(parts: Negotiated) -> Result<Self, Errno> {
        let twin = parts.twin.map(|(socket, receiver)| Twin {
            receiver: Mutex::new(receiver),
            sender: Mutex::new(FrameSender::new(socket.clone())),
            socket,
        });
        let requests_on_main = twin.is_none() && parts.dma.has_handler();
        let watch = watch(&parts.socket, twin.as_ref(), requests_on_main)?;
        let counters = Counters::default();
        counters.count(CommandCode::VERSION);
        Ok(Self {
            sender: Mutex::new(FrameSender::new(parts.socket.clone())),
            receiver: Mutex::new(parts.receiver),
            twin,
            watch,
            clock: OnceLock::new(),
            in_flight: InFlight::new(),
            lost: OnceLock::new(),
            dma: parts.dma,
            server: parts.server,
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

    /// Declares the device lost; the first cause stays.
    pub(super) fn lose(&self, cause: LostCause) -> LostCause {
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
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let command = call.command;
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        let ticket = self
            .in_flight
            .begin(command, call.pace, call.time)
            .map_err(|reason| match reason {
                NoTicket::Busy => ClientError::Busy { command },
                NoTicket::TooMany => ClientError::TooManyInFlight { command },
            })?;
        let patience = Patience::Until(ticket.deadline);
        let sent = self.send(call, ticket.id, HeaderFlags::COMMAND, patience);
        if let Err(error) = sent {
            self.in_flight.abandon(&ticket);
            return Err(ClientError::Lost(error));
        }
        self.await_answer(&ticket, read)
    }

    /// Sends a request that is not answered.
    pub(super) fn post(&self, call: &Call<'_>) -> Result<(), ClientError> {
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        let flags = HeaderFlags::COMMAND_NO_REPLY;
        self.send(call, POSTED_ID, flags, Patience::For(call.time))
            .map_err(ClientError::Lost)
    }

    fn send(
        &self,
        call: &Call<'_>,
        id: MessageId,
        flags: HeaderFlags,
        patience: Patience,
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
        let sent = lock(&self.sender).send(&message, patience);
        sent.map_err(|error| self.lose(sending(command, error)))
    }

    fn await_answer<R>(
        &self,
        ticket: &Ticket,
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<R, BadField>,
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
                    self.lose(LostCause::Deadline { command });
                }
                Turn::Answered => {
                    let Some(answer) = self.in_flight.collect(ticket) else {
                        continue;
                    };
                    let result = judge(command, answer.result, || read(&answer.body, answer.fds));
                    self.in_flight.finish(ticket, answer.body);
                    return result;
                }
                Turn::Lead => {
                    let mut receiver = lock(&self.receiver);
                    let led = self.lead(&mut receiver, ticket);
                    let result = led.map(|header| {
                        let frame = receiver.take(header);
                        let failed = header.flags.error();
                        let result = if failed { Err(header.errno()) } else { Ok(()) };
                        judge(command, result, || read(frame.body, frame.fds))
                    });
                    drop(receiver);
                    self.in_flight.finish_leading(ticket);
                    return result.unwrap_or_else(|cause| Err(ClientError::Lost(cause)));
                }
            }
        }
    }

    /// Reads for all until the ticket's own answer is whole in the receiver.
    fn lead(&self, receiver: &mut FrameReceiver, ticket: &Ticket) -> Result<Header, LostCause> {
        let wait = if ticket.pace == Pace::Access && self.clock.get().is_some() {
            Wait::Watched
        } else {
            Wait::Until(ticket.deadline)
        };
        loop {
            self.await_main(receiver, ticket)?;
            let header = receiver
                .wait(wait)
                .map_err(|error| self.receive_failed(error, ticket.command))?;
            let own = header.message_type() == MessageType::Reply
                && header.id == ticket.id
                && header.command == ticket.command;
            if own {
                self.check_fds(receiver, header)?;
                return Ok(header);
            }
            self.handle(receiver, header)?;
            // A peer that never stops sending does not stop the clock.
            if ticket.deadline.remaining().is_none() {
                return Err(self.late(ticket));
            }
        }
    }

    /// With a twin socket, waits on both and serves the twin until the main one has something. Not where an event loop
    /// serves it.
    fn await_main(&self, receiver: &FrameReceiver, ticket: &Ticket) -> Result<(), LostCause> {
        let Some(twin) = self.twin.as_ref().filter(|_| self.clock.get().is_none()) else {
            return Ok(());
        };
        while !receiver.has_buffered() {
            let Some(left) = ticket.deadline.remaining() else {
                return Err(self.late(ticket));
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
                Err(error) => {
                    let cause = LostCause::Receive(RecvError::Io(error));
                    return Err(self.lose(cause));
                }
            }
            let [main, twin_fd] = fds;
            if !twin_fd.revents().is_empty() {
                self.serve_twin(twin)?;
            }
            if !main.revents().is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deals with a message that is not the leader's own answer.
    pub(super) fn handle(
        &self,
        receiver: &mut FrameReceiver,
        header: Header,
    ) -> Result<(), LostCause> {
        self.check_fds(receiver, header)?;
        let frame = receiver.take(header);
        if header.message_type() == MessageType::Command {
            if self.twin.is_some() {
                let what = "a request on the main socket although there is a twin";
                return Err(self.broke(header, what));
            }
            return self.serve(&frame, &self.sender);
        }
        if self.in_flight.deliver(frame) {
            return Ok(());
        }
        Err(self.broke(header, "an answer to nothing"))
    }

    /// More descriptors than we announced end the connection.
    pub(super) fn check_fds(
        &self,
        receiver: &FrameReceiver,
        header: Header,
    ) -> Result<(), LostCause> {
        let most = usize::try_from(limits::MAX_MSG_FDS).unwrap_or(usize::MAX);
        if receiver.fd_count() > most {
            return Err(self.broke(header, "more file descriptors than we take"));
        }
        Ok(())
    }

    fn late(&self, ticket: &Ticket) -> LostCause {
        self.lose(LostCause::Deadline {
            command: ticket.command,
        })
    }

    pub(super) fn broke(&self, header: Header, what: &'static str) -> LostCause {
        self.lose(LostCause::Protocol {
            command: header.command,
            what,
        })
    }

    pub(super) fn receive_failed(&self, error: RecvError, command: CommandCode) -> LostCause {
        self.lose(match error {
            RecvError::Deadline | RecvError::Stalled { .. } => LostCause::Deadline { command },
            RecvError::Closed => LostCause::Closed,
            RecvError::NotYet
            | RecvError::Truncated { .. }
            | RecvError::Header(_)
            | RecvError::FdsLost
            | RecvError::FdsAmbiguous
            | RecvError::Io(_) => LostCause::Receive(error),
        })
    }
}

pub(super) fn sending(command: CommandCode, error: SendError) -> LostCause {
    match error {
        SendError::Closed => LostCause::Closed,
        SendError::Deadline => LostCause::Deadline { command },
        SendError::TooLarge | SendError::Io(_) => LostCause::Send { command, error },
    }
}

fn judge<R>(
    command: CommandCode,
    result: Result<(), Errno>,
    read: impl FnOnce() -> Result<R, BadField>,
) -> Result<R, ClientError> {
    result.map_err(|errno| ClientError::Refused { command, errno })?;
    read().map_err(|bad| ClientError::BadAnswer { command, bad })
}
