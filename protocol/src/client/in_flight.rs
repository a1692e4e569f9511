//! Who waits for which answer, and who reads the socket for all.
//!
//! One of the threads that wait leads: it alone reads. It gives answers of others to their slots and wakes them, and
//! passes the lead on when it has its own. Slots and their buffers are made once.

use crate::frame::Frame;
use crate::header::CommandCode;
use crate::ids::MessageId;
use crate::limits::MAX_IN_FLIGHT;
use crate::transport::Deadline;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a request stands to one with a long deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Not sent while a slow one is in flight.
    Access,
    /// Waits behind a slow one: its own time starts after that one's deadline.
    Query,
    /// Takes long by nature.
    Slow,
}

/// The id of requests that are not answered; no other request has it.
pub(super) const POSTED_ID: MessageId = MessageId(0);

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    slot: usize,
    pub(super) id: MessageId,
    pub(super) command: CommandCode,
    pub(super) pace: Pace,
    pub(super) deadline: Deadline,
}

/// Why a request gets no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTicket {
    Busy,
    TooMany,
}

/// What a thread that waits has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Read for all.
    Lead,
    /// The answer is in the slot.
    Answered,
    /// The deadline passed.
    Late,
    /// Something changed; look whether the device is lost.
    Woken,
}

/// An answer that another thread read.
pub(super) struct Answer {
    pub(super) result: Result<(), Errno>,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Requests in flight on one connection.
#[derive(Debug)]
pub(super) struct InFlight {
    table: Mutex<Table>,
    /// One per slot.
    wakes: Vec<Condvar>,
}

#[derive(Debug)]
struct Table {
    led: bool,
    next_id: u16,
    /// When the slow request in flight has to be answered.
    slow: Option<Deadline>,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    id: MessageId,
    command: CommandCode,
    pace: Pace,
    deadline: Option<Deadline>,
    asleep: bool,
    /// Kept from request to request.
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Free,
    Waiting,
    Answered(Result<(), Errno>),
    /// Its thread works on the answer.
    Collected,
}

impl InFlight {
    pub(super) fn new() -> Self {
        let slot = || Slot {
            state: SlotState::Free,
            id: MessageId(0),
            command: CommandCode(0),
            pace: Pace::Query,
            deadline: None,
            asleep: false,
            body: Vec::new(),
            fds: Vec::new(),
        };
        Self {
            table: Mutex::new(Table {
                led: false,
                next_id: 1,
                slow: None,
                slots: (0..MAX_IN_FLIGHT).map(|_| slot()).collect(),
            }),
            wakes: (0..MAX_IN_FLIGHT).map(|_| Condvar::new()).collect(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot and an id that no other request in flight has.
    pub(super) fn begin(
        &self,
        command: CommandCode,
        pace: Pace,
        time: Duration,
    ) -> Result<Ticket, NoTicket> {
        let mut table = self.table();
        let deadline = match (table.slow, pace) {
            (None, _) => Deadline::after(time),
            (Some(_), Pace::Access) => return Err(NoTicket::Busy),
            (Some(slow), Pace::Query | Pace::Slow) => slow.extended(time),
        };
        let id = table.unused_id();
        let free = |(_, slot): &(usize, &mut Slot)| slot.state == SlotState::Free;
        let (slot, entry) = table
            .slots
            .iter_mut()
            .enumerate()
            .find(free)
            .ok_or(NoTicket::TooMany)?;
        entry.state = SlotState::Waiting;
        entry.id = id;
        entry.command = command;
        entry.pace = pace;
        entry.deadline = Some(deadline);
        if pace == Pace::Slow {
            table.slow = Some(deadline);
        }
        Ok(Ticket {
            slot,
            id,
            command,
            pace,
            deadline,
        })
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
        let Some(left) = ticket.deadline.remaining() else {
            return Turn::Late;
        };
        let Some(wake) = self.wakes.get(ticket.slot) else {
            return Turn::Late;
        };
        table.set_asleep(ticket, true);
        let (mut table, _) = wake
            .wait_timeout(table, left)
            .unwrap_or_else(PoisonError::into_inner);
        table.set_asleep(ticket, false);
        table.turn_at_once(ticket).unwrap_or(Turn::Woken)
    }

    /// Takes the lead if nobody has it.
    pub(super) fn try_lead(&self) -> bool {
        let mut table = self.table();
        !std::mem::replace(&mut table.led, true)
    }

    /// Gives the lead away: to a thread that waits for an answer, if there is one.
    pub(super) fn stop_leading(&self) {
        self.release(None);
    }

    /// The leader has its own answer: frees the slot and gives the lead away, in one step.
    pub(super) fn finish_leading(&self, ticket: &Ticket) {
        self.release(Some(ticket));
    }

    fn release(&self, finished: Option<&Ticket>) {
        let mut table = self.table();
        table.led = false;
        if let Some(ticket) = finished {
            table.free(ticket);
        }
        let heir = table
            .slots
            .iter()
            .position(|slot| slot.asleep && slot.state == SlotState::Waiting);
        drop(table);
        if let Some(wake) = heir.and_then(|slot| self.wakes.get(slot)) {
            wake.notify_one();
        }
    }

    /// Gives an answer to whoever asked; false when nobody did.
    pub(super) fn deliver(&self, frame: Frame<'_>) -> bool {
        let header = frame.header;
        let mut table = self.table();
        let asked = |(_, slot): &(usize, &mut Slot)| {
            slot.state == SlotState::Waiting
                && slot.id == header.id
                && slot.command == header.command
        };
        let Some((index, slot)) = table.slots.iter_mut().enumerate().find(asked) else {
            return false;
        };
        let failed = header.flags.error();
        slot.state = SlotState::Answered(if failed { Err(header.errno()) } else { Ok(()) });
        slot.body.clear();
        slot.body.extend_from_slice(frame.body);
        slot.fds = frame.fds;
        let asleep = slot.asleep;
        drop(table);
        if let Some(wake) = self.wakes.get(index).filter(|_| asleep) {
            wake.notify_one();
        }
        true
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
        table.free(ticket);
    }

    /// Gives up a request that will never be answered.
    pub(super) fn abandon(&self, ticket: &Ticket) {
        self.table().free(ticket);
    }

    /// A request that should have been answered by now.
    pub(super) fn late(&self) -> Option<CommandCode> {
        let late = |slot: &&Slot| {
            let deadline = slot.deadline.filter(|_| slot.state == SlotState::Waiting);
            deadline.is_some_and(|deadline| deadline.remaining().is_none())
        };
        self.table()
            .slots
            .iter()
            .find(late)
            .map(|slot| slot.command)
    }

    /// Wakes every thread that waits.
    pub(super) fn wake_all(&self) {
        // Whoever looks at the table after this sees what the caller did before it.
        drop(self.table());
        for wake in &self.wakes {
            wake.notify_all();
        }
    }
}

impl Table {
    fn unused_id(&mut self) -> MessageId {
        loop {
            let id = MessageId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            let used = |slot: &Slot| slot.state != SlotState::Free && slot.id == id;
            // Posted writes have id 0. At most MAX_IN_FLIGHT + 1 rounds: no more ids are in use.
            if id != POSTED_ID && !self.slots.iter().any(used) {
                return id;
            }
        }
    }

    fn turn_at_once(&mut self, ticket: &Ticket) -> Option<Turn> {
        let slot = self.slots.get(ticket.slot)?;
        match slot.state {
            SlotState::Answered(_) => Some(Turn::Answered),
            SlotState::Waiting if !self.led => {
                self.led = true;
                Some(Turn::Lead)
            }
            SlotState::Waiting | SlotState::Free | SlotState::Collected => None,
        }
    }

    fn set_asleep(&mut self, ticket: &Ticket, asleep: bool) {
        if let Some(slot) = self.slots.get_mut(ticket.slot) {
            slot.asleep = asleep;
        }
    }

    fn free(&mut self, ticket: &Ticket) {
        let Some(slot) = self.slots.get_mut(ticket.slot) else {
            return;
        };
        slot.state = SlotState::Free;
        slot.fds.clear();
        if slot.pace == Pace::Slow {
            let slow = |slot: &Slot| slot.state != SlotState::Free && slot.pace == Pace::Slow;
            if !self.slots.iter().any(slow) {
                self.slow = None;
            }
        }
    }
}
