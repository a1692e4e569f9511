//! The slots of requests in flight. The id of a request names its slot, so nothing is searched; an id comes again after
//! 1023 requests in the same slot. Pure: no lock, no thread.

use super::super::slow::{SlowAnswer, SlowRequest};
use super::{Due, Lead, NoTicket, POSTED_ID, Ticket, Turn};
use crate::header::{CommandCode, Header};
use crate::ids::MessageId;
use crate::limits::MAX_IN_FLIGHT;
use crate::received_fd::ReceivedFd;
use rustix::io::Errno;
use std::time::Duration;

/// An id is a slot in the upper bits and how often it was used in the lower ones, which are never all 0: so no request
/// has the id of posted ones.
const USE_BITS: u32 = 10;
const MAX_USES: u16 = (1 << USE_BITS) - 1;
const _: () = assert!(MAX_IN_FLIGHT == 64 && MAX_IN_FLIGHT << USE_BITS == 1 << 16);

/// Which requests are in flight, who leads, who sleeps.
#[derive(Debug)]
pub(in crate::client) struct Table {
    /// What the leader reads with; it is here while nobody leads.
    lead: Option<Lead>,
    /// Ticks of the event loop's clock.
    pub(super) ticks: u64,
    /// Bit n: slot n is not free.
    taken: u64,
    /// Bit n: the thread of slot n sleeps.
    asleep: u64,
    /// The one request that no thread has to wait for.
    pub(in crate::client) slow: SlowRequest,
    pub(super) slots: Vec<Slot>,
}

/// What a slot is taken for.
pub(super) struct Asked {
    pub(super) command: CommandCode,
    pub(super) due: Due,
    pub(super) time: Duration,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    /// How often it was used, from 1 to `MAX_USES` and again from 1.
    uses: u16,
    id: MessageId,
    pub(super) command: CommandCode,
    pub(super) due: Due,
    /// Kept from request to request.
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<ReceivedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Free,
    Waiting,
    /// No thread waits; the outcome goes into the table.
    Slow(SlowAnswer),
    Answered(Result<(), Errno>),
    /// Its thread works on the answer.
    Collected,
}

impl Table {
    pub(super) fn new(lead: Lead) -> Self {
        let slot = || Slot {
            state: SlotState::Free,
            uses: 0,
            id: POSTED_ID,
            command: CommandCode(0),
            due: Due::Tick(0),
            body: Vec::new(),
            fds: Vec::new(),
        };
        Self {
            lead: Some(lead),
            ticks: 0,
            taken: 0,
            asleep: 0,
            slow: SlowRequest::new(),
            slots: (0..MAX_IN_FLIGHT).map(|_| slot()).collect(),
        }
    }

    /// Takes a free slot.
    pub(super) fn take(&mut self, asked: Asked, state: SlotState) -> Result<Ticket, NoTicket> {
        let free = self.taken.trailing_ones();
        let index = usize::try_from(free).map_err(|_| NoTicket::TooMany)?;
        let slot = self.slots.get_mut(index).ok_or(NoTicket::TooMany)?;
        self.taken |= bit(index);
        let uses = slot.uses.checked_add(1).filter(|uses| *uses <= MAX_USES);
        slot.uses = uses.unwrap_or(1);
        let upper = u16::try_from(index).map_err(|_| NoTicket::TooMany)?;
        slot.id = MessageId(upper << USE_BITS | slot.uses);
        slot.state = state;
        slot.command = asked.command;
        slot.due = asked.due;
        Ok(Ticket {
            slot: index,
            id: slot.id,
            command: asked.command,
            due: asked.due,
            time: asked.time,
        })
    }

    pub(super) fn free(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.state = SlotState::Free;
            slot.fds.clear();
            self.taken &= !bit(index);
        }
    }

    /// The slot that waits for this answer.
    pub(super) fn slot_of(&mut self, header: &Header) -> Option<(usize, &mut Slot)> {
        let index = usize::from(header.id.0 >> USE_BITS);
        let slot = self.slots.get_mut(index)?;
        let waits = slot.is_open() && slot.id == header.id && slot.command == header.command;
        waits.then_some((index, slot))
    }

    /// What the thread of a request can do now.
    pub(super) fn turn_at_once(&mut self, ticket: &Ticket) -> Option<Turn> {
        let state = self.slots.get(ticket.slot)?.state;
        match state {
            SlotState::Answered(_) => Some(Turn::Answered),
            SlotState::Waiting => self.take_lead().map(Turn::Lead),
            SlotState::Free | SlotState::Slow(_) | SlotState::Collected => None,
        }
    }

    /// Takes the lead if nobody has it.
    pub(in crate::client) fn take_lead(&mut self) -> Option<Lead> {
        self.lead.take()
    }

    pub(super) fn give_lead_back(&mut self, lead: Lead) {
        self.lead = Some(lead);
    }

    pub(super) fn is_asleep(&self, index: usize) -> bool {
        self.asleep & bit(index) != 0
    }

    pub(super) fn set_asleep(&mut self, index: usize, asleep: bool) {
        if asleep {
            self.asleep |= bit(index);
        } else {
            self.asleep &= !bit(index);
        }
    }

    /// A thread that sleeps without an answer: it can lead.
    pub(super) fn heir(&self) -> Option<usize> {
        let mut asleep = self.asleep;
        while asleep != 0 {
            let index = usize::try_from(asleep.trailing_zeros()).ok()?;
            if self.slots.get(index)?.state == SlotState::Waiting {
                return Some(index);
            }
            asleep &= !bit(index);
        }
        None
    }
}

impl Slot {
    /// It is not answered.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, SlotState::Waiting | SlotState::Slow(_))
    }
}

fn bit(index: usize) -> u64 {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1u64.checked_shl(index))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{FrameReceiver, ReceiveLimits, StreamSocket};
    use std::collections::BTreeSet;
    use std::os::fd::OwnedFd;

    fn table() -> Table {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = StreamSocket::new(OwnedFd::from(socket), None).unwrap();
        let limits = ReceiveLimits {
            max_message_bytes: 64,
            first_read_bytes: 36,
            message_deadline: Duration::from_secs(1),
            blocks_for: None,
        };
        Table::new(Box::new(FrameReceiver::new(socket, limits)))
    }

    fn take(table: &mut Table) -> Result<Ticket, NoTicket> {
        let asked = Asked {
            command: CommandCode::REGION_READ,
            due: Due::Tick(1),
            time: Duration::from_secs(1),
        };
        table.take(asked, SlotState::Waiting)
    }

    #[test]
    fn ids_of_requests_in_flight_differ_and_none_is_that_of_posted_ones() {
        let mut table = table();
        for _ in 0..=MAX_USES {
            let tickets: Vec<Ticket> = (0..MAX_IN_FLIGHT)
                .map(|_| take(&mut table).unwrap())
                .collect();
            assert_eq!(take(&mut table).unwrap_err(), NoTicket::TooMany);
            let ids: BTreeSet<MessageId> = tickets.iter().map(|ticket| ticket.id).collect();
            assert_eq!(ids.len(), MAX_IN_FLIGHT);
            assert!(!ids.contains(&POSTED_ID));
            for ticket in tickets {
                table.free(ticket.slot);
            }
        }
    }

    #[test]
    fn one_request_after_another_never_has_the_same_id() {
        let mut table = table();
        let mut last = POSTED_ID;
        for _ in 0..3000 {
            let ticket = take(&mut table).unwrap();
            assert_ne!(ticket.id, last);
            last = ticket.id;
            table.free(ticket.slot);
        }
    }
}
