//! The hot-plug controller of one slot, as a pure state machine.
//!
//! Spec: PCI Express Base 4.0 §6.7 (hot-plug), §7.5.3.10 and §7.5.3.11 (Slot Control, Slot Status), §7.5.3.8 (Link
//! Status). Diagram: docs/hotplug.md.
//!
//! The slot has an attention button, a power controller, both indicators, presence detect and data link layer active.
//! Plugging shows as presence and link changes, never as a button press: a press can be taken for a request to remove
//! (kata-containers#1147). The link change is shown even while the slot is off and no link can be: where there is a button,
//! Linux does not enable the presence interrupt (pciehp_hpc.c, pcie_enable_notification), but always that of the link. Removing presses the button once and waits until the guest has turned power and power
//! indicator off. While the power indicator blinks, the guest is busy with the slot: a press then would cancel what it
//! is doing, so the request waits for a steady indicator.
//!
//! A device that vanishes leaves a guest that still has to turn the slot off. What is plugged meanwhile waits for that, unseen:
//! else the guest would be taken to let go of a device that it has not met yet.
//!
//! Not here: registers' place in configuration space (`root_port.rs`), devices, timers and events to the operator
//! (the caller carries out the [`Action`]s).
//! Limits: one device in the slot; one request to remove at a time.

#[cfg(test)]
mod tests;

mod events;
pub mod bits;

pub use events::{Action, Event, Phase};

use bits::{
    SLTCTL_ABPE, SLTCTL_AIC_OFF, SLTCTL_CCIE, SLTCTL_DLLSCE, SLTCTL_HPIE, SLTCTL_PCC, SLTCTL_PDCE,
    SLTCTL_PIC, SLTCTL_PIC_BLINK, SLTCTL_PIC_OFF, SLTCTL_PIC_ON, SLTCTL_WRITABLE, SLTSTA_ABP,
    SLTSTA_CC, SLTSTA_DLLSC, SLTSTA_EVENTS, SLTSTA_PDC, SLTSTA_PDS,
};

/// The slot: its two registers and its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    control: u16,
    status: u16,
    phase: Phase,
}

impl Slot {
    /// An empty slot after power-on.
    pub fn empty() -> Slot {
        Slot {
            control: power_on_control(Phase::Empty),
            status: 0,
            phase: Phase::Empty,
        }
    }

    /// A slot whose device was there at power-on.
    pub fn occupied() -> Slot {
        Slot {
            control: power_on_control(Phase::Present),
            status: SLTSTA_PDS,
            phase: Phase::Present,
        }
    }

    /// Slot Control as the guest reads it.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Slot Status as the guest reads it.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How far the slot is with its device.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the data link is up (Link Status, Data Link Layer Link Active): a device is there and has power.
    pub fn link_active(&self) -> bool {
        let is_in = match self.phase {
            Phase::Empty | Phase::Gone | Phase::Queued => false,
            Phase::Present | Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue => true,
        };
        is_in && self.control & SLTCTL_PCC == 0
    }

    /// Whether the guest listens to this slot: without, removal cannot be asked for and is a surprise.
    pub fn guest_listens(&self) -> bool {
        self.control & SLTCTL_HPIE != 0 && self.control & SLTCTL_ABPE != 0
    }

    /// Takes the next step.
    pub fn on(self, event: Event) -> (Slot, Vec<Action>) {
        let (next, mut actions) = match event {
            Event::Occupied => self.occupy(),
            Event::EjectRequested => self.request_eject(),
            Event::EjectTimedOut => self.time_out(),
            Event::Vanished => self.vanish(),
            Event::ControlWritten(value) => self.write_control(value),
            Event::StatusWritten(value) => (
                Slot {
                    status: self.status & !(value & SLTSTA_EVENTS),
                    ..self
                },
                Vec::new(),
            ),
            Event::MachineReset => self.machine_reset(),
        };
        if next.interrupt_level() & !self.interrupt_level() != 0 {
            actions.push(Action::Interrupt);
        }
        (next, actions)
    }

    /// Whether an enabled event waits for the guest: the level of the port's INTx pin.
    pub fn interrupt_pending(&self) -> bool {
        self.interrupt_level() != 0
    }

    /// The events that are both there and enabled; a new one sends the interrupt.
    fn interrupt_level(&self) -> u16 {
        if self.control & SLTCTL_HPIE == 0 {
            return 0;
        }
        [
            (SLTSTA_ABP, SLTCTL_ABPE),
            (SLTSTA_PDC, SLTCTL_PDCE),
            (SLTSTA_CC, SLTCTL_CCIE),
            (SLTSTA_DLLSC, SLTCTL_DLLSCE),
        ]
        .iter()
        .filter(|(_, enable)| self.control & enable != 0)
        .fold(0, |level, (event, _)| level | (self.status & event))
    }

    fn occupy(self) -> (Slot, Vec<Action>) {
        match self.phase {
            Phase::Empty => {
                let mut next = Slot {
                    phase: Phase::Present,
                    ..self
                };
                next.status |= SLTSTA_PDS | SLTSTA_PDC | SLTSTA_DLLSC;
                let mut actions = Vec::new();
                if next.link_active() {
                    actions.push(Action::PowerOn);
                }
                (next, actions)
            }
            Phase::Gone => (
                Slot {
                    phase: Phase::Queued,
                    ..self
                },
                Vec::new(),
            ),
            Phase::Queued
            | Phase::Present
            | Phase::EjectWaiting
            | Phase::Ejecting
            | Phase::EjectOverdue => (self, Vec::new()),
        }
    }

    fn request_eject(self) -> (Slot, Vec<Action>) {
        match self.phase {
            Phase::Empty | Phase::Gone | Phase::EjectWaiting | Phase::Ejecting => {
                (self, Vec::new())
            }
            // The guest has not seen it.
            Phase::Queued => self.vanish(),
            Phase::Present | Phase::EjectOverdue => {
                if !self.guest_listens() {
                    return self.vanish();
                }
                (self.press_when_steady(), vec![Action::StartTimer])
            }
        }
    }

    /// Presses the button unless the guest is busy with the slot.
    fn press_when_steady(self) -> Slot {
        if self.control & SLTCTL_PIC == SLTCTL_PIC_BLINK || self.control & SLTCTL_PCC != 0 {
            return Slot {
                phase: Phase::EjectWaiting,
                ..self
            };
        }
        Slot {
            phase: Phase::Ejecting,
            status: self.status | SLTSTA_ABP,
            ..self
        }
    }

    fn time_out(self) -> (Slot, Vec<Action>) {
        match self.phase {
            Phase::Empty | Phase::Gone | Phase::Queued | Phase::Present | Phase::EjectOverdue => {
                (self, Vec::new())
            }
            Phase::EjectWaiting => (
                Slot {
                    phase: Phase::Present,
                    ..self
                },
                vec![Action::ReportGuestError],
            ),
            Phase::Ejecting => (
                Slot {
                    phase: Phase::EjectOverdue,
                    ..self
                },
                vec![Action::ReportGuestError],
            ),
        }
    }

    /// The device leaves the slot now, whatever the guest thinks of it.
    fn vanish(self) -> (Slot, Vec<Action>) {
        match self.phase {
            Phase::Empty | Phase::Gone => return (self, Vec::new()),
            Phase::Queued => {
                let gone = Slot {
                    phase: Phase::Gone,
                    ..self
                };
                return (gone, vec![Action::Release]);
            }
            Phase::Present | Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue => {}
        }
        let mut actions = self.stop_timer();
        let mut status = (self.status & !(SLTSTA_PDS | SLTSTA_ABP)) | SLTSTA_PDC;
        let phase = if self.link_active() && self.guest_listens() {
            Phase::Gone
        } else {
            Phase::Empty
        };
        if self.link_active() {
            status |= SLTSTA_DLLSC;
            actions.push(Action::PowerOff);
        }
        actions.push(Action::Release);
        (
            Slot {
                phase,
                status,
                ..self
            },
            actions,
        )
    }

    fn write_control(self, value: u16) -> (Slot, Vec<Action>) {
        let control = (self.control & !SLTCTL_WRITABLE) | (value & SLTCTL_WRITABLE);
        let mut next = Slot {
            control,
            status: self.status | SLTSTA_CC,
            ..self
        };
        let mut actions = Vec::new();
        let lets_go = let_go(control) && !let_go(self.control);
        // A driver that has left the slot will not turn it off any more.
        let is_done = lets_go || !next.guest_listens();
        match self.phase {
            Phase::Gone if is_done => next.phase = Phase::Empty,
            Phase::Queued if is_done => {
                next.phase = Phase::Empty;
                let (next, more) = next.occupy();
                actions.extend(more);
                return (next, actions);
            }
            Phase::Empty
            | Phase::Gone
            | Phase::Queued
            | Phase::Present
            | Phase::EjectWaiting
            | Phase::Ejecting
            | Phase::EjectOverdue => {}
        }
        match (self.link_active(), next.link_active()) {
            (false, true) => {
                next.status |= SLTSTA_DLLSC;
                actions.push(Action::PowerOn);
            }
            (true, false) => {
                next.status |= SLTSTA_DLLSC;
                actions.push(Action::PowerOff);
            }
            (true, true) | (false, false) => {}
        }
        if lets_go && next.phase != Phase::Empty {
            actions.extend(next.stop_timer());
            next.phase = Phase::Empty;
            next.status = (next.status & !SLTSTA_PDS) | SLTSTA_PDC;
            actions.push(Action::Release);
            return (next, actions);
        }
        let (next, more) = next.follow_indicator(self.control);
        actions.extend(more);
        (next, actions)
    }

    /// What a change of the power indicator means for a removal that is under way.
    fn follow_indicator(self, before: u16) -> (Slot, Vec<Action>) {
        let was_blinking = before & SLTCTL_PIC == SLTCTL_PIC_BLINK;
        let is_on = self.control & SLTCTL_PIC == SLTCTL_PIC_ON;
        match self.phase {
            Phase::EjectWaiting if is_on => (self.press_when_steady(), Vec::new()),
            Phase::Ejecting if was_blinking && is_on => (
                Slot {
                    phase: Phase::Present,
                    ..self
                },
                vec![Action::StopTimer, Action::ReportGuestError],
            ),
            Phase::EjectOverdue if was_blinking && is_on => (
                Slot {
                    phase: Phase::Present,
                    ..self
                },
                Vec::new(),
            ),
            Phase::Empty
            | Phase::Gone
            | Phase::Queued
            | Phase::Present
            | Phase::EjectWaiting
            | Phase::Ejecting
            | Phase::EjectOverdue => (self, Vec::new()),
        }
    }

    fn machine_reset(self) -> (Slot, Vec<Action>) {
        match self.phase {
            Phase::Empty | Phase::Gone => (Slot::empty(), Vec::new()),
            Phase::Queued => (Slot::occupied(), vec![Action::PowerOn]),
            Phase::Present => (
                Slot::occupied(),
                if self.link_active() {
                    Vec::new()
                } else {
                    vec![Action::PowerOn]
                },
            ),
            Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue => {
                let mut actions = self.stop_timer();
                if self.link_active() {
                    actions.push(Action::PowerOff);
                }
                actions.push(Action::Release);
                (Slot::empty(), actions)
            }
        }
    }

    fn stop_timer(&self) -> Vec<Action> {
        match self.phase {
            Phase::EjectWaiting | Phase::Ejecting => vec![Action::StopTimer],
            Phase::Empty | Phase::Gone | Phase::Queued | Phase::Present | Phase::EjectOverdue => {
                Vec::new()
            }
        }
    }
}

/// Power and power indicator off: the guest has let go of the device.
fn let_go(control: u16) -> bool {
    control & SLTCTL_PCC != 0 && control & SLTCTL_PIC == SLTCTL_PIC_OFF
}

fn power_on_control(phase: Phase) -> u16 {
    match phase {
        Phase::Empty | Phase::Gone | Phase::Queued => SLTCTL_AIC_OFF | SLTCTL_PIC_OFF | SLTCTL_PCC,
        Phase::Present | Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue => {
            SLTCTL_AIC_OFF | SLTCTL_PIC_ON
        }
    }
}
