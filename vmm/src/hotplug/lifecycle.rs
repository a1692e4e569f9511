//! The life of one passed device in the machine, as a pure state machine.
//!
//! What happens to a device comes from several sides: the operator, the guest (through its slot), the device server, the
//! host. Here all of it meets, and what follows is decided; `worker` carries it out. Diagram: docs/hotplug.md.
//!
//! Not here: what the slot does to get a device out of the guest (`pci/slot.rs`), and how often a device may be restarted.

#[cfg(test)]
mod tests;

use crate::config::OnFailure;

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// `device_add` has not returned: its server is started, or it is attached.
    Adding,
    /// In its place.
    Present,
    /// In its place; the host wants it back.
    Recalled,
    /// Lost, and about to leave its slot.
    Lost(After),
    /// Lost, in a place that nothing can leave: on the root bus.
    Dead,
    /// Out of its place; its server ends.
    Releasing(After),
    /// As `Releasing`; the operator was told that it takes longer, and why.
    Held(After),
    /// It was lost and released, and is started anew.
    Restarting,
    /// As `Restarting`, but the operator does not want it any more.
    Unwanted,
    /// Forgotten.
    Gone,
}

/// What becomes of a device once the host has it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It is forgotten.
    Delete,
    /// It is started anew.
    Restart,
}

/// What can happen to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It is in its slot.
    Placed,
    /// It could not be attached or put into its slot; nothing of it is left.
    NotPlaced,
    /// The operator wants it out: by asking the guest, or by force.
    RemovalAsked {
        /// Without asking the guest.
        force: bool,
    },
    /// Its server or the device itself is gone.
    Lost(OnFailure, Seat),
    /// The host wants it back (VFIO's REQ interrupt).
    HostAsks(Seat),
    /// The guest was asked for it and refused, or did not answer in time.
    GuestError,
    /// The slot has let it out.
    Out,
    /// The host has it back.
    Released {
        /// Whether it may be started anew, if that is what follows.
        may_restart: bool,
    },
    /// The host does not have it back yet, and that may take.
    HeldUp,
}

/// Where a device sits, and what its slot does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// On the root bus: it has no slot.
    RootBus,
    /// In a slot that keeps it.
    Kept,
    /// In a slot whose guest was asked for it.
    Asked,
    /// In a slot that has let it out already; [`Event::Out`] follows.
    Left,
}

/// What is to be done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the guest for it.
    AskGuest,
    /// Take it out of its slot.
    Take,
    /// Take everything of it away from the guest, and then [`Action::AskSupervisor`].
    LetGo,
    /// Ask the supervisor to end its server, and to say when the host has the device.
    AskSupervisor,
    /// Start it anew.
    Restart,
    /// Stop the processors.
    StopMachine,
    /// BULKHEAD_DEVICE_LOST.
    TellLost,
    /// BULKHEAD_DEVICE_RECALLED.
    TellRecalled,
    /// BULKHEAD_DEVICE_HELD.
    TellHeld,
    /// DEVICE_UNPLUG_GUEST_ERROR.
    TellGuestError,
    /// DEVICE_DELETED.
    TellDeleted,
}

impl State {
    /// What `event` makes of it.
    pub(super) fn on(self, event: Event) -> (State, &'static [Action]) {
        match self {
            State::Adding => self.while_adding(event),
            State::Present | State::Recalled => self.in_place(event),
            State::Lost(after) => Self::lost(after, event),
            State::Dead => match event {
                Event::HeldUp => (self, &[Action::TellHeld]),
                Event::Placed
                | Event::NotPlaced
                | Event::RemovalAsked { .. }
                | Event::Lost(..)
                | Event::HostAsks(_)
                | Event::GuestError
                | Event::Out
                | Event::Released { .. } => (self, &[]),
            },
            State::Releasing(after) | State::Held(after) => self.out(after, event),
            State::Restarting | State::Unwanted => self.while_restarting(event),
            State::Gone => (self, &[]),
        }
    }

    fn while_adding(self, event: Event) -> (State, &'static [Action]) {
        match event {
            Event::Placed => (State::Present, &[]),
            Event::NotPlaced => (State::Gone, &[]),
            Event::HeldUp => (State::Held(After::Delete), &[Action::TellHeld]),
            // The guest may be faster than the end of the command.
            Event::Out => (State::Releasing(After::Delete), &[Action::LetGo]),
            // Refused by `device_del`; and nothing else is heard of it before it is in its place.
            Event::RemovalAsked { .. }
            | Event::Lost(..)
            | Event::HostAsks(_)
            | Event::GuestError
            | Event::Released { .. } => (self, &[]),
        }
    }

    fn in_place(self, event: Event) -> (State, &'static [Action]) {
        match (self, event) {
            (_, Event::RemovalAsked { force: false }) => (self, &[Action::AskGuest]),
            (_, Event::RemovalAsked { force: true }) => (self, &[Action::Take]),
            (_, Event::Lost(policy, seat)) => self.lose(policy, seat),
            (_, Event::HostAsks(Seat::RootBus)) => {
                (State::Dead, &[Action::TellLost, Action::LetGo])
            }
            (State::Present, Event::HostAsks(Seat::Kept | Seat::Asked)) => {
                (State::Recalled, &[Action::TellRecalled, Action::AskGuest])
            }
            (State::Recalled, Event::GuestError) => (
                State::Lost(After::Delete),
                &[Action::TellLost, Action::Take],
            ),
            (_, Event::GuestError) => (self, &[Action::TellGuestError]),
            (_, Event::Out) => (State::Releasing(After::Delete), &[Action::LetGo]),
            (
                _,
                Event::HostAsks(_)
                | Event::Placed
                | Event::NotPlaced
                | Event::Released { .. }
                | Event::HeldUp,
            ) => (self, &[]),
        }
    }

    fn lose(self, policy: OnFailure, seat: Seat) -> (State, &'static [Action]) {
        // Nobody wants a device back that was asked for.
        let after = match (self, policy, seat) {
            (State::Present, OnFailure::Restart, Seat::Kept) => After::Restart,
            (_, OnFailure::Remove | OnFailure::Restart | OnFailure::Stop, _) => After::Delete,
        };
        match (seat, policy) {
            (Seat::Left, _) => (self, &[]),
            (Seat::RootBus, OnFailure::Stop) => (
                State::Dead,
                &[Action::TellLost, Action::StopMachine, Action::LetGo],
            ),
            (Seat::RootBus, OnFailure::Remove | OnFailure::Restart) => {
                (State::Dead, &[Action::TellLost, Action::LetGo])
            }
            (Seat::Kept | Seat::Asked, OnFailure::Stop) => (
                State::Lost(after),
                &[Action::TellLost, Action::StopMachine, Action::Take],
            ),
            (Seat::Kept | Seat::Asked, OnFailure::Remove | OnFailure::Restart) => {
                (State::Lost(after), &[Action::TellLost, Action::Take])
            }
        }
    }

    fn lost(after: After, event: Event) -> (State, &'static [Action]) {
        match event {
            Event::Out => (State::Releasing(after), &[Action::LetGo]),
            Event::RemovalAsked { .. } | Event::HostAsks(_) => (State::Lost(After::Delete), &[]),
            Event::Placed
            | Event::NotPlaced
            | Event::Lost(..)
            | Event::GuestError
            | Event::Released { .. }
            | Event::HeldUp => (State::Lost(after), &[]),
        }
    }

    fn out(self, after: After, event: Event) -> (State, &'static [Action]) {
        match (self, event) {
            (_, Event::Released { may_restart: true }) if after == After::Restart => {
                (State::Restarting, &[Action::Restart])
            }
            (_, Event::Released { .. }) => (State::Gone, &[Action::TellDeleted]),
            (State::Held(_), Event::RemovalAsked { .. }) => {
                (State::Releasing(After::Delete), &[Action::AskSupervisor])
            }
            (State::Held(_), Event::HostAsks(_)) => (State::Held(After::Delete), &[]),
            (State::Held(_), Event::HeldUp) => (self, &[]),
            (_, Event::HeldUp) => (State::Held(after), &[Action::TellHeld]),
            (_, Event::RemovalAsked { .. } | Event::HostAsks(_)) => {
                (State::Releasing(After::Delete), &[])
            }
            (
                _,
                Event::Placed | Event::NotPlaced | Event::Lost(..) | Event::GuestError | Event::Out,
            ) => (self, &[]),
        }
    }

    fn while_restarting(self, event: Event) -> (State, &'static [Action]) {
        match (self, event) {
            // Nobody wants it, and the guest has not used it since it came back.
            (State::Unwanted, Event::Placed) => (State::Present, &[Action::Take]),
            (_, Event::Placed) => (State::Present, &[]),
            (_, Event::NotPlaced) => (State::Gone, &[Action::TellDeleted]),
            (_, Event::HeldUp) => (State::Held(After::Delete), &[Action::TellHeld]),
            (_, Event::RemovalAsked { .. } | Event::HostAsks(_)) => (State::Unwanted, &[]),
            (_, Event::Out) => (State::Releasing(After::Delete), &[Action::LetGo]),
            (_, Event::Lost(..) | Event::GuestError | Event::Released { .. }) => (self, &[]),
        }
    }
}
