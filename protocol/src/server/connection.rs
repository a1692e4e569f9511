//! One client: receive, decide, decode, refuse, answer.

use super::answers::{Answers, RequestToken};
use super::config::{CloseReason, ServerConfig};
use super::session::{Agreement, Session, SessionAction, SessionEvent};
use crate::command::{Command, DecodeContext};
use crate::frame::Frame;
use crate::header::{CommandCode, Header, MessageType};
use crate::limits;
use crate::messages::version::TwinSocket;
use crate::received_fd::ReceivedFd;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::transport::{
    Deadline, FrameReceiver, Framed, ReceiveLimits, RecvError, SocketError, StreamSocket, Wait,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// What comes next on a connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// Run it and answer it with [`Connection::reply`].
    Request(Request<'a>),
    /// It was refused and answered; the connection lives.
    Refused(Refusal),
    /// There is nothing more.
    Closed(CloseReason),
}

/// A request to be answered.
#[derive(Debug)]
pub struct Request<'a> {
    /// Names it in the answer.
    pub token: RequestToken,
    /// What is asked.
    pub command: Command<'a>,
}

/// A request that came while a DMA message was being answered.
#[derive(Debug)]
pub(super) struct SetAside {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<ReceivedFd>,
    pub(super) fds_on_body: bool,
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: ServerConfig,
    socket: StreamSocket,
    pub(super) receiver: FrameReceiver,
    pub(super) answers: Answers,
    pub(super) session: Session,
    pub(super) closed: Option<CloseReason>,
    negotiate_until: Deadline,
    /// Our end of the socket for DMA messages.
    pub(super) twin: Option<Framed>,
    pub(super) set_aside: VecDeque<SetAside>,
    /// The request that was set aside and is being handed out.
    current: Option<SetAside>,
    pub(super) next_dma_id: u16,
}

impl Connection {
    /// Serves the client at the other end of `socket`.
    ///
    /// # Errors
    /// It is no Unix stream socket.
    pub fn new(socket: impl Into<ReceivedFd>, config: ServerConfig) -> Result<Self, SocketError> {
        let socket = StreamSocket::new(socket, None)?;
        Ok(Self {
            receiver: FrameReceiver::new(socket.clone(), receive_limits(&config)),
            answers: Answers::new(socket.clone(), config.deadlines.send),
            session: Session::BeforeVersion,
            closed: None,
            negotiate_until: Deadline::after(config.deadlines.negotiation),
            twin: None,
            set_aside: VecDeque::new(),
            current: None,
            next_dma_id: 0,
            socket,
            config,
        })
    }

    /// The socket, to poll it or to end the connection from elsewhere.
    #[must_use]
    pub fn socket(&self) -> &StreamSocket {
        &self.socket
    }

    /// Is a request there already, or the beginning of one? If so, waiting for the socket to become readable would be
    /// wrong: nothing more may come, and the deadline of a message runs only inside [`Self::next_event`].
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.closed.is_some() || !self.set_aside.is_empty() || self.receiver.has_begun()
    }

    /// How long the client may still take to send VERSION; `None` once it has. For who polls the socket before
    /// [`Self::next_event`]: that poll must end by then.
    #[must_use]
    pub fn negotiation_time_left(&self) -> Option<Duration> {
        match self.session {
            Session::BeforeVersion => Some(self.negotiate_until.remaining().unwrap_or_default()),
            Session::Negotiated(_) | Session::Closed => None,
        }
    }

    /// What was agreed; `None` before VERSION.
    #[must_use]
    pub fn agreement(&self) -> Option<&Agreement> {
        match &self.session {
            Session::Negotiated(agreement) => Some(agreement),
            Session::BeforeVersion | Session::Closed => None,
        }
    }

    /// Waits for the next request, however long the client is idle. VERSION is answered here.
    pub fn next_event(&mut self) -> Event<'_> {
        loop {
            if let Some(reason) = self.closed {
                return Event::Closed(reason);
            }
            let header = match self.next_header() {
                Ok(header) => header,
                Err(error) => return Event::Closed(self.close(CloseReason::Receive(error))),
            };
            if header.message_type() == MessageType::Reply {
                if let Some(refusal) = self.decide(header, SessionEvent::Reply(header.command)) {
                    return Event::Refused(refusal);
                }
            } else if header.command == CommandCode::VERSION {
                if let Some(refusal) = self.negotiate(header) {
                    return Event::Refused(refusal);
                }
            } else if let Session::Negotiated(agreement) = &self.session {
                let context = agreement.context;
                return self.decode(header, &context);
            } else {
                self.decide(header, SessionEvent::Request(header.command));
            }
        }
    }

    fn next_header(&mut self) -> Result<Header, RecvError> {
        if self.current.is_some() || !self.set_aside.is_empty() {
            self.current = self.set_aside.pop_front();
        }
        if let Some(request) = &self.current {
            return Ok(request.header);
        }
        let wait = match self.session {
            Session::BeforeVersion => Wait::Until(self.negotiate_until),
            Session::Negotiated(_) | Session::Closed => Wait::Forever,
        };
        self.receiver.wait(wait)
    }

    /// Decodes the request at hand; one that is refused is answered here.
    fn decode(&mut self, header: Header, context: &DecodeContext) -> Event<'_> {
        let token = RequestToken::of(&header);
        let frame = frame_at_hand(&mut self.current, &mut self.receiver, header);
        match Command::decode(frame, context) {
            Ok(command) => Event::Request(Request { token, command }),
            Err(refusal) => match self.answers.send(token, Reply::Error(refusal.errno)) {
                Ok(()) => Event::Refused(refusal),
                Err(error) => {
                    let reason = CloseReason::Send(error);
                    self.closed = Some(reason);
                    self.session = Session::Closed;
                    self.socket.shut_down();
                    Event::Closed(reason)
                }
            },
        }
    }

    /// Judges the VERSION at hand; returns a refusal that leaves the connection open.
    fn negotiate(&mut self, header: Header) -> Option<Refusal> {
        let frame = frame_at_hand(&mut self.current, &mut self.receiver, header);
        let decoded = Command::decode(frame, &DecodeContext::UNSTATED);
        let event = match decoded {
            Ok(Command::Version(version)) => SessionEvent::Version {
                version,
                no_reply: header.flags.no_reply(),
            },
            Ok(_) => SessionEvent::Request(header.command),
            Err(refusal) => SessionEvent::Refused(refusal),
        };
        self.decide(header, event)
    }

    /// Lets the session judge an event; returns a refusal that leaves the connection open.
    fn decide(&mut self, header: Header, event: SessionEvent) -> Option<Refusal> {
        let (session, action) = self.session.on(event, &self.config.capabilities);
        self.session = session;
        let token = RequestToken::of(&header);
        match action {
            SessionAction::Dispatch => None,
            SessionAction::Agree(agreement) => {
                if let Err(reason) = self.answer_version(token, agreement) {
                    self.close(reason);
                }
                None
            }
            SessionAction::Refuse(refusal) => {
                let sent = self.answers.send(token, Reply::Error(refusal.errno));
                match sent {
                    Ok(()) if !refusal.close => return Some(refusal),
                    Ok(()) => self.close(CloseReason::Refused(refusal)),
                    Err(error) => self.close(CloseReason::Send(error)),
                };
                None
            }
            SessionAction::Close(refusal) => {
                self.close(CloseReason::Refused(refusal));
                None
            }
        }
    }

    fn answer_version(
        &mut self,
        token: RequestToken,
        agreement: Agreement,
    ) -> Result<(), CloseReason> {
        self.answers.peer_max_msg_fds = agreement.client.max_msg_fds;
        let mut version = agreement.reply;
        if version.capabilities.twin_socket == TwinSocket::Unsupported {
            return self
                .answers
                .send(token, Reply::Version(version, None))
                .map_err(CloseReason::Send);
        }
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(CloseReason::TwinSocket)?;
        let socket =
            StreamSocket::new(ours, None).map_err(|_| CloseReason::TwinSocket(Errno::NOTSOCK))?;
        self.twin = Some(Framed::new(socket, receive_limits(&self.config)));
        version.capabilities.twin_socket = TwinSocket::Fd(0);
        self.answers
            .send(token, Reply::Version(version, Some(theirs.as_fd())))
            .map_err(CloseReason::Send)
    }

    /// Answers a request; nothing is sent when the client wants no answer.
    ///
    /// # Errors
    /// The answer cannot be sent; the connection is over.
    pub fn reply(&mut self, token: RequestToken, reply: Reply<'_>) -> Result<(), CloseReason> {
        if let Some(reason) = self.closed {
            return Err(reason);
        }
        self.answers
            .send(token, reply)
            .map_err(|error| self.close(CloseReason::Send(error)))
    }

    /// Ends the connection.
    pub(super) fn close(&mut self, reason: CloseReason) -> CloseReason {
        let first = *self.closed.get_or_insert(reason);
        self.session = Session::Closed;
        self.socket.shut_down();
        self.twin = None;
        self.set_aside.clear();
        first
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The request that was set aside, or else the one that the receiver holds.
fn frame_at_hand<'a>(
    current: &'a mut Option<SetAside>,
    receiver: &'a mut FrameReceiver,
    header: Header,
) -> Frame<'a> {
    match current {
        Some(request) => Frame {
            header,
            body: &request.body,
            fds: std::mem::take(&mut request.fds),
            fds_on_body: request.fds_on_body,
        },
        None => receiver.take(header),
    }
}

fn receive_limits(config: &ServerConfig) -> ReceiveLimits {
    ReceiveLimits {
        max_message_bytes: config
            .capabilities
            .max_data_xfer_size
            .saturating_add(limits::DATA_XFER_HEAD_BYTES),
        first_read_bytes: limits::FIRST_READ_REQUEST_BYTES,
        message_deadline: config.deadlines.message,
        blocks_for: None,
    }
}
