//! Who waits for which answer, and who reads the socket for all.
//!
//! One of the threads that wait leads: it alone reads. It gives answers of others to their slots and wakes them, and
//! passes the lead on when it has its own. Slots and their buffers are made once (`table.rs`).
//! Nobody has to wait for a slow request (`slow.rs`): whoever reads its answer keeps the outcome in the table.
//! Limits: `MAX_IN_FLIGHT` requests, one slow one.

mod table;

use super::slow::SlowAnswer;
use crate::frame::Frame;
use crate::header::{CommandCode, Header};
use crate::ids::MessageId;
use crate::limits::{MAX_IN_FLIGHT, WATCH_PERIOD};
use crate::received_fd::ReceivedFd;
use crate::transport::{Deadline, FrameReceiver, Wait};
use rustix::io::Errno;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::{Asked, SlotState, Table};

/// How long a thread sleeps whose deadline the event loop minds.
const MINDED: Duration = Duration::from_secs(3600);

/// The id of requests that are not answered; no other request has it.
pub(super) const POSTED_ID: MessageId = MessageId(0);

/// When a request is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// At a time.
    At(Deadline),
    /// At a tick of the clock that the event loop minds. Costs no look at the time.
    Tick(u64),
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    slot: usize,
    pub(super) id: MessageId,
    pub(super) command: CommandCode,
    pub(super) due: Due,
    /// How long the answer may take.
    pub(super) time: Duration,
}

/// Why a request gets no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTicket {
    /// A slow request is in flight.
    Busy,
    TooMany,
}

/// What a thread that waits has to do next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Read for all.
    Lead(Lead),
    /// The answer is there.
    Answered,
    /// The deadline passed.
    Late,
    /// Something changed; look whether the device is lost.
    Woken,
}

/// The right to read, which one thread at a time has.
pub(super) type Lead = Box<FrameReceiver>;

/// An answer that another thread read.
pub(super) struct Answer {
    pub(super) result: Result<(), Errno>,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<ReceivedFd>,
}

/// Requests in flight on one connection.
#[derive(Debug)]
pub(super) struct InFlight {
    table: Mutex<Table>,
    /// One per slot.
    wakes: Vec<Condvar>,
    /// For a thread that waits for the slow request all the same.
    pub(super) slow_wake: Condvar,
}

impl InFlight {
    pub(super) fn new(receiver: FrameReceiver) -> Self {
        Self {
            table: Mutex::new(Table::new(Box::new(receiver))),
            wakes: (0..MAX_IN_FLIGHT).map(|_| Condvar::new()).collect(),
            slow_wake: Condvar::new(),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a request that must be answered within `time`, and the lead, if nobody has it. `minded` says that
    /// the event loop looks.
    pub(super) fn begin(
        &self,
        command: CommandCode,
        time: Duration,
        minded: bool,
    ) -> Result<(Ticket, Option<Lead>), NoTicket> {
        let mut table = self.table();
        if table.slow.in_flight().is_some() {
            return Err(NoTicket::Busy);
        }
        let due = if minded {
            Due::Tick(table.ticks.saturating_add(ticks_of(time)))
        } else {
            Due::At(Deadline::after(time))
        };
        let ticket = table.take(Asked { command, due, time }, SlotState::Waiting)?;
        Ok((ticket, table.take_lead()))
    }

    /// Takes a slot for a request that no thread has to wait for.
    pub(super) fn begin_slow(
        &self,
        command: CommandCode,
        time: Duration,
        answer: SlowAnswer,
    ) -> Result<Ticket, NoTicket> {
        let mut table = self.table();
        if table.slow.in_flight().is_some() {
            return Err(NoTicket::Busy);
        }
        let deadline = Deadline::after(time);
        let due = Due::At(deadline);
        let ticket = table.take(Asked { command, due, time }, SlotState::Slow(answer))?;
        table.slow.begin(ticket, deadline);
        Ok(ticket)
    }

    /// Waits until there is something to do for the request's thread. `over` is asked under the lock that
    /// [`Self::wake_all`] takes, so that no wake-up can be missed.
    pub(super) fn turn(&self, ticket: &Ticket, over: impl FnOnce() -> bool) -> Turn {
        let mut table = self.table();
        if over() {
            return Turn::Woken;
        }
        if let Some(turn) = table.turn_at_once(ticket) {
            return turn;
        }
        let left = match ticket.due {
            Due::At(deadline) => deadline.remaining(),
            Due::Tick(_) => Some(MINDED),
        };
        let (Some(left), Some(wake)) = (left, self.wakes.get(ticket.slot)) else {
            return Turn::Late;
        };
        table.set_asleep(ticket.slot, true);
        let (mut table, _) = wake
            .wait_timeout(table, left)
            .unwrap_or_else(PoisonError::into_inner);
        table.set_asleep(ticket.slot, false);
        table.turn_at_once(ticket).unwrap_or(Turn::Woken)
    }

    /// Takes the lead if nobody has it.
    pub(super) fn try_lead(&self) -> Option<Lead> {
        self.table().take_lead()
    }

    /// Gives the lead away: to a thread that waits for an answer, if there is one.
    pub(super) fn stop_leading(&self, lead: Lead) {
        self.release(lead, None);
    }

    /// The leader has its own answer: frees the slot and gives the lead away, in one step.
    pub(super) fn finish_leading(&self, lead: Lead, ticket: &Ticket) {
        self.release(lead, Some(ticket));
    }

    fn release(&self, lead: Lead, finished: Option<&Ticket>) {
        let mut table = self.table();
        table.give_lead_back(lead);
        if let Some(ticket) = finished {
            table.free(ticket.slot);
        }
        let heir = table.heir();
        let slow = heir.is_none() && table.slow.is_awaited();
        drop(table);
        if let Some(wake) = heir.and_then(|slot| self.wakes.get(slot)) {
            wake.notify_one();
        }
        if slow {
            self.slow_wake.notify_all();
        }
    }

    /// Does a request wait for this answer?
    pub(super) fn awaits(&self, header: &Header) -> bool {
        self.table().slot_of(header).is_some()
    }

    /// Gives an answer to whoever asked; one that nobody asked for is dropped.
    pub(super) fn deliver(&self, frame: Frame<'_>) {
        let mut table = self.table();
        let Some((index, slot)) = table.slot_of(&frame.header) else {
            return;
        };
        let failed = frame.header.flags.error();
        let result = if failed {
            Err(frame.header.errno())
        } else {
            Ok(())
        };
        if let SlotState::Slow(answer) = slot.state {
            let outcome = answer.judge(slot.command, result, frame.body);
            table.slow.end(outcome);
            table.free(index);
            drop(table);
            self.slow_wake.notify_all();
            return;
        }
        slot.state = SlotState::Answered(result);
        slot.body.clear();
        slot.body.extend_from_slice(frame.body);
        slot.fds = frame.fds;
        let asleep = table.is_asleep(index);
        drop(table);
        if let Some(wake) = self.wakes.get(index).filter(|_| asleep) {
            wake.notify_one();
        }
    }

    /// Takes the answer out of its slot, which stays taken until [`Self::finish`].
    pub(super) fn collect(&self, ticket: &Ticket) -> Option<Answer> {
        let mut table = self.table();
        let slot = table.slots.get_mut(ticket.slot)?;
        let SlotState::Answered(result) = slot.state else {
            return None;
        };
        slot.state = SlotState::Collected;
        Some(Answer {
            result,
            body: std::mem::take(&mut slot.body),
            fds: std::mem::take(&mut slot.fds),
        })
    }

    /// Frees the slot; its buffer goes back to it.
    pub(super) fn finish(&self, ticket: &Ticket, buffer: Vec<u8>) {
        let mut table = self.table();
        if let Some(slot) = table.slots.get_mut(ticket.slot) {
            slot.body = buffer;
        }
        table.free(ticket.slot);
    }

    /// Gives up a request that will never be answered.
    pub(super) fn abandon(&self, ticket: &Ticket) {
        self.table().free(ticket.slot);
    }

    /// The clock of the event loop has ticked.
    pub(super) fn tick(&self) {
        let mut table = self.table();
        table.ticks = table.ticks.saturating_add(1);
    }

    /// A request that should have been answered by now.
    pub(super) fn late(&self) -> Option<CommandCode> {
        let table = self.table();
        let late = |due: Due| match due {
            Due::At(deadline) => deadline.remaining().is_none(),
            Due::Tick(tick) => tick <= table.ticks,
        };
        let mut open = table.slots.iter().filter(|slot| slot.is_open());
        open.find(|slot| late(slot.due)).map(|slot| slot.command)
    }

    /// Wakes every thread that waits.
    pub(super) fn wake_all(&self) {
        // Whoever looks at the table after this sees what the caller did before it.
        drop(self.table());
        for wake in &self.wakes {
            wake.notify_all();
        }
        self.slow_wake.notify_all();
    }
}

impl Ticket {
    /// How to wait for the answer inside a read.
    pub(super) fn wait(&self) -> Wait {
        match self.due {
            Due::At(deadline) => Wait::Until(deadline),
            Due::Tick(_) => Wait::Watched,
        }
    }

    pub(super) fn is_answered_by(&self, header: &Header) -> bool {
        header.id == self.id && header.command == self.command
    }
}

/// How many ticks cover `time`, which begins somewhere between two.
fn ticks_of(time: Duration) -> u64 {
    let periods = time.as_nanos().div_ceil(WATCH_PERIOD.as_nanos());
    u64::try_from(periods).unwrap_or(u64::MAX).saturating_add(1)
}
