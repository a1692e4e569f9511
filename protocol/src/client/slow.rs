//! The one request with a long deadline: a reset, or a write that starts one.
//!
//! No thread has to wait for its answer: whoever reads the socket next takes it, be it another request's thread, the
//! event loop, or an access that looks whether it may be sent again. Until then every other request fails at once with
//! Busy. A thread that is no virtual CPU may wait all the same ([`Engine::finish_slow`]).

use super::engine::{Call, Engine, lock};
use super::error::ClientError;
use super::in_flight::{InFlight, Lead, NoTicket, Ticket};
use super::session::Event;
use crate::header::{CommandCode, HeaderFlags};
use crate::messages::region::RegionAccess;
use crate::transport::Deadline;
use rustix::io::Errno;
use std::sync::PoisonError;

/// What the answer must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlowAnswer {
    /// Nothing.
    Empty,
    /// What was asked.
    Write(RegionAccess),
}

impl SlowAnswer {
    pub(super) fn judge(
        self,
        command: CommandCode,
        result: Result<(), Errno>,
        body: &[u8],
    ) -> Result<(), ClientError> {
        result.map_err(|errno| ClientError::Refused { command, errno })?;
        match self {
            Self::Empty => Ok(()),
            Self::Write(access) => access
                .check_write_reply(body)
                .map_err(|bad| ClientError::BadAnswer { command, bad }),
        }
    }
}

/// How far the slow request is; one at a time.
#[derive(Debug)]
pub(super) struct SlowRequest {
    state: State,
    /// A thread sleeps until it ends.
    awaited: bool,
}

#[derive(Debug)]
enum State {
    None,
    InFlight { ticket: Ticket, deadline: Deadline },
    Ended(Result<(), ClientError>),
}

impl SlowRequest {
    pub(super) fn new() -> Self {
        Self {
            state: State::None,
            awaited: false,
        }
    }

    pub(super) fn begin(&mut self, ticket: Ticket, deadline: Deadline) {
        self.state = State::InFlight { ticket, deadline };
    }

    pub(super) fn end(&mut self, outcome: Result<(), ClientError>) {
        self.state = State::Ended(outcome);
    }

    pub(super) fn in_flight(&self) -> Option<&Ticket> {
        match &self.state {
            State::InFlight { ticket, .. } => Some(ticket),
            State::None | State::Ended(_) => None,
        }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    fn take_outcome(&mut self) -> Option<Result<(), ClientError>> {
        match std::mem::replace(&mut self.state, State::None) {
            State::Ended(outcome) => Some(outcome),
            before @ (State::None | State::InFlight { .. }) => {
                self.state = before;
                None
            }
        }
    }
}

/// What a thread that waits for the slow request has to do next.
enum Turn {
    /// Read for all.
    Lead(Lead, Ticket),
    /// There is none any more.
    Ended,
    Late(CommandCode),
    Woken,
}

impl InFlight {
    fn slow_turn(&self, over: impl FnOnce() -> bool) -> Turn {
        let mut table = self.table();
        if over() {
            return Turn::Woken;
        }
        let State::InFlight { ticket, deadline } = table.slow.state else {
            return Turn::Ended;
        };
        if let Some(lead) = table.take_lead() {
            return Turn::Lead(lead, ticket);
        }
        let Some(left) = deadline.remaining() else {
            return Turn::Late(ticket.command);
        };
        table.slow.awaited = true;
        let (mut table, _) = self
            .slow_wake
            .wait_timeout(table, left)
            .unwrap_or_else(PoisonError::into_inner);
        table.slow.awaited = false;
        Turn::Woken
    }
}

impl Engine {
    /// Sends a slow request. The sending itself has the deadline of an access.
    pub(super) fn start_slow(
        &self,
        call: &Call<'_>,
        answer: SlowAnswer,
    ) -> Result<(), ClientError> {
        let command = call.command;
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        self.look_for_the_slow_answer()?;
        let ticket = self.in_flight.begin_slow(command, call.time, answer);
        let ticket = ticket.map_err(|reason| reason.for_command(command))?;
        self.send(call, ticket.id, HeaderFlags::COMMAND, &mut || ())
            .map_err(ClientError::Lost)
    }

    /// Is a slow request in flight? Takes its answer if it has come and nobody else reads.
    pub(super) fn is_busy(&self) -> bool {
        // A device that is lost is not busy.
        self.look_for_the_slow_answer().is_ok() && self.slow_in_flight()
    }

    /// How the last slow request ended; once.
    pub(super) fn take_slow_outcome(&self) -> Option<Result<(), ClientError>> {
        let outcome = self.in_flight.table().slow.take_outcome();
        if let Some(Err(ClientError::Refused { command, .. })) = outcome {
            self.counters.count_refused(command);
        }
        outcome
    }

    fn slow_in_flight(&self) -> bool {
        self.in_flight.table().slow.in_flight().is_some()
    }

    /// Reads what has come, for an access that would otherwise fail with Busy.
    pub(super) fn look_for_the_slow_answer(&self) -> Result<(), ClientError> {
        if !self.slow_in_flight() {
            return Ok(());
        }
        self.read_what_came().map_err(ClientError::Lost)?;
        self.look_for_late_ones().map_err(ClientError::Lost)
    }

    /// Waits until no slow request is in flight, and says how the last one ended.
    pub(super) fn finish_slow(&self) -> Result<(), ClientError> {
        // Only one thread at a time may sleep for it.
        let _turn = lock(&self.slow_waiter);
        loop {
            if let Some(cause) = self.lost() {
                return Err(ClientError::Lost(cause));
            }
            match self.in_flight.slow_turn(|| self.lost().is_some()) {
                Turn::Woken => {}
                Turn::Ended => return self.take_slow_outcome().unwrap_or(Ok(())),
                Turn::Late(command) => {
                    self.lose(Event::Late { command });
                }
                Turn::Lead(mut receiver, ticket) => {
                    if let Ok(header) = self.lead(&mut receiver, &ticket) {
                        self.in_flight.deliver(receiver.take(header));
                    }
                    self.in_flight.stop_leading(receiver);
                }
            }
        }
    }
}

impl NoTicket {
    pub(super) fn for_command(self, command: CommandCode) -> ClientError {
        match self {
            Self::Busy => ClientError::Busy { command },
            Self::TooMany => ClientError::TooManyInFlight { command },
        }
    }
}
