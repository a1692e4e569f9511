//! A PCI Express root port: a bridge with one slot behind it.
//!
//! Spec: PCI-to-PCI Bridge 1.2 §3.2 (type 1 header); PCI Express Base 4.0 §7.5.3 (PCI Express capability);
//! PCI Local Bus 3.0 §6.8.1 (MSI). Register offsets and bits are in `root_port/spec.rs`.
//! The windows and bus numbers are what the guest wrote last; the host routes configuration accesses by them. A
//! function behind the port decodes its BARs wherever they are: the windows only matter to the guest.
//! The hot-plug controller is the state machine in `slot.rs`: writes of Slot Control and Slot Status become its events,
//! and what it decides waits for the host in [`RootPort::take_actions`], since it concerns what is behind the port.
//! Limits: one bus behind the port, with one slot (0).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::allocate::BridgePlan;
use super::bar::BarRequest;
use super::function::{IntxRoute, PciFunction};
use super::slot::{Action, Event, Slot};

mod registers;
mod spec;

use registers::{Layout, power_on, window_registers};
use spec::{
    BRIDGE_CONTROL, BRIDGE_CONTROL_BUS_RESET, COMMAND, COMMAND_INTX_DISABLE, COMMAND_IO,
    COMMAND_MASTER, COMMAND_MEMORY, LNKSTA, LNKSTA_DLLLA, MSI_ADDRESS, MSI_ADDRESS_UPPER,
    MSI_CONTROL, MSI_CONTROL_ENABLE, MSI_DATA, PRIMARY_BUS, SLTCTL, SLTSTA,
};

/// A root port. Plug it into the root bus; the functions behind it are the host's.
#[derive(Debug)]
pub struct RootPort {
    id: String,
    number: u8,
    registers: Mutex<Registers>,
    bus_reset: AtomicBool,
}

#[derive(Debug)]
struct Registers {
    layout: Layout,
    slot: Slot,
    actions: Vec<Action>,
    plan: Option<BridgePlan>,
    gsi: Option<u32>,
}

/// How the port's interrupt reaches the guest now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortInterrupt {
    /// Send this message when an event arrives.
    Message {
        /// Where it is written to.
        address: u64,
        /// What is written.
        data: u32,
    },
    /// Hold the pin at this level.
    Line {
        /// The interrupt controller input of the pin.
        gsi: u32,
        /// Whether an event waits.
        level: bool,
    },
    /// The guest has turned both off.
    None,
}

impl RootPort {
    /// A port with an empty slot. `number` is the port's and the slot's number.
    pub fn new(id: &str, number: u8) -> Self {
        let mut registers = Registers {
            layout: power_on(number),
            slot: Slot::empty(),
            actions: Vec::new(),
            plan: None,
            gsi: None,
        };
        registers.show_slot();
        Self {
            id: id.to_owned(),
            number,
            registers: Mutex::new(registers),
            bus_reset: AtomicBool::new(false),
        }
    }

    /// The secondary and subordinate bus that the guest (or firmware) gave the port; secondary 0 means none.
    pub fn buses(&self) -> (u8, u8) {
        let [_, secondary, subordinate, _] =
            self.lock().layout.space.u32_at(PRIMARY_BUS).to_le_bytes();
        (secondary, subordinate)
    }

    /// A device was behind the port at power-on.
    pub fn occupy_at_power_on(&self) {
        let mut registers = self.lock();
        registers.slot = Slot::occupied();
        registers.show_slot();
    }

    /// Something happened to the slot from outside the guest. What is to be done waits in [`Self::take_actions`].
    pub fn slot_event(&self, event: Event) {
        self.lock().step(event);
    }

    /// The slot as it is.
    pub fn slot(&self) -> Slot {
        self.lock().slot
    }

    /// What the slot has decided since the last call, in order.
    pub fn take_actions(&self) -> Vec<Action> {
        std::mem::take(&mut self.lock().actions)
    }

    /// How an interrupt of the port is sent now.
    pub fn interrupt(&self) -> PortInterrupt {
        let registers = self.lock();
        let (space, msi) = (&registers.layout.space, registers.layout.msi);
        if space.u16_at(msi + MSI_CONTROL) & MSI_CONTROL_ENABLE != 0 {
            let low = u64::from(space.u32_at(msi + MSI_ADDRESS));
            let high = u64::from(space.u32_at(msi + MSI_ADDRESS_UPPER));
            let data = u32::from(space.u16_at(msi + MSI_DATA));
            return PortInterrupt::Message {
                address: high << 32 | low,
                data,
            };
        }
        let Some(gsi) = registers.gsi else {
            return PortInterrupt::None;
        };
        let enabled = space.u16_at(COMMAND) & COMMAND_INTX_DISABLE == 0;
        let level = enabled && registers.slot.interrupt_pending();
        PortInterrupt::Line { gsi, level }
    }

    /// True once after the guest has set the secondary bus reset bit: what is behind the port must be reset.
    pub fn take_bus_reset(&self) -> bool {
        self.bus_reset.swap(false, Ordering::AcqRel)
    }

    /// The windows that firmware gave the port.
    pub fn plan(&self) -> Option<BridgePlan> {
        self.lock().plan
    }

    /// Writes bus numbers and windows, and turns the bridge on, as firmware does.
    pub fn program(&self, plan: &BridgePlan) {
        let mut registers = self.lock();
        registers.plan = Some(*plan);
        let space = &mut registers.layout.space;
        space.set(PRIMARY_BUS, &[0, plan.bus, plan.bus]);
        for (offset, bytes) in window_registers(plan) {
            space.set(offset, &bytes);
        }
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER;
        space.set(COMMAND, &command.to_le_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers {
    fn step(&mut self, event: Event) {
        let (slot, actions) = self.slot.on(event);
        self.slot = slot;
        self.actions.extend(actions);
        self.show_slot();
    }

    /// Shows the slot's state in Slot Control, Slot Status and Link Status.
    fn show_slot(&mut self) {
        let (space, at) = (&mut self.layout.space, self.layout.express);
        space.set(at + SLTCTL, &self.slot.control().to_le_bytes());
        space.set(at + SLTSTA, &self.slot.status().to_le_bytes());
        let link = space.u16_at(at + LNKSTA) & !LNKSTA_DLLLA;
        let active = if self.slot.link_active() {
            LNKSTA_DLLLA
        } else {
            0
        };
        space.set(at + LNKSTA, &(link | active).to_le_bytes());
    }
}

impl PciFunction for RootPort {
    fn id(&self) -> &str {
        &self.id
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().layout.space.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut registers = self.lock();
        let before = registers.layout.space.u16_at(BRIDGE_CONTROL);
        registers.layout.space.write(offset, data);
        let after = registers.layout.space.u16_at(BRIDGE_CONTROL);
        if after & !before & BRIDGE_CONTROL_BUS_RESET != 0 {
            self.bus_reset.store(true, Ordering::Release);
        }
        let express = registers.layout.express;
        if touches(offset, data, express + SLTCTL) {
            let value = registers.layout.space.u16_at(express + SLTCTL);
            registers.step(Event::ControlWritten(value));
        }
        if touches(offset, data, express + SLTSTA) {
            let ones = written(offset, data, express + SLTSTA);
            registers.step(Event::StatusWritten(ones));
        }
    }

    fn bars(&self) -> Vec<BarRequest> {
        Vec::new()
    }

    fn placed(&self, route: IntxRoute) {
        let [inta, ..] = route.gsi;
        self.lock().gsi = Some(inta);
    }

    fn reset(&self) {
        let mut registers = self.lock();
        registers.layout = power_on(self.number);
        registers.step(Event::MachineReset);
    }

    fn finish_reset(&self) {}
}

/// Whether a write reaches the 16-bit register at `register`.
fn touches(offset: u16, data: &[u8], register: u16) -> bool {
    let end = usize::from(offset) + data.len();
    usize::from(offset) < usize::from(register) + 2 && end > usize::from(register)
}

/// The bytes that a write gives the 16-bit register at `register`; zero where it does not reach.
fn written(offset: u16, data: &[u8], register: u16) -> u16 {
    let byte = |at: u16| {
        let index = usize::from(at).checked_sub(usize::from(offset));
        index
            .and_then(|index| data.get(index))
            .copied()
            .unwrap_or(0)
    };
    u16::from_le_bytes([byte(register), byte(register + 1)])
}

#[cfg(test)]
mod tests;
