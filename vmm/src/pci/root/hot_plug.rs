//! Plugging into and unplugging from root ports while the guest runs.
//!
//! The slot's own state machine is `slot.rs`; here its decisions are carried out as far as they concern the topology, and
//! the rest is handed to [`SlotServices`]. Addresses are the guest's business: it places the BARs of a new device in the
//! port's windows, so all that is checked is that they fit.
//! Limits: functions are added to slot 0 function 0 of a root port; the root bus has no hot-plug controller.

use std::sync::{Arc, PoisonError};

use super::super::AddressRange;
use super::super::allocate::{BridgePlan, FunctionRequest, Space, fit};
use super::super::intx;
use super::super::root_port::{PortInterrupt, RootPort};
use super::super::slot::{Action, Event, Phase};
use super::super::topology::{Bus, PlaceError};
use super::{PciFunction, PciHost, Port, Tree};
use crate::config::Place;
use crate::config::place::ROOT_BUS;
use crate::config::root_port::{MAX_IO_RESERVE, MAX_MEM_RESERVE, MAX_PREF64_RESERVE};

/// What a slot needs of the machine. Called from a vCPU's thread without locks: it must not block.
pub trait SlotServices: Send + Sync {
    /// A port sends its message-signalled interrupt.
    fn send_msi(&self, address: u64, data: u32);
    /// The interrupt pins of the ports on this interrupt controller input are at this level.
    fn set_line(&self, gsi: u32, level: bool);
    /// The slot of this port has decided something that concerns its device or its timer.
    fn carry_out(&self, port: &str, action: Action);
}

/// A device cannot be plugged while the guest runs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HotPlugError {
    /// On the root bus.
    #[error(
        "No hot plug controller found for bus {ROOT_BUS} when plug device {id}; plug it into a pcie-root-port, whose id is \
         the bus"
    )]
    RootBus {
        /// The device.
        id: String,
    },
    /// Not function 0.
    #[error(
        "HotPlug is not supported for device {id} with devfn {devfn}: only slot 0 function 0 of a root port"
    )]
    NotFunctionZero {
        /// The device.
        id: String,
        /// Where it wants to be.
        devfn: u8,
    },
    /// A device is in the slot, or is on its way out of it.
    #[error("The slot of {port} is in use: {state} {owner}")]
    SlotInUse {
        /// The port.
        port: String,
        /// What the slot is doing with its device.
        state: &'static str,
        /// The device in it.
        owner: String,
    },
    /// Too large for the port's window.
    #[error(
        "Device {id} needs {needed:#x} bytes of {space} and port {port} has a window of {window:#x}; {advice}"
    )]
    TooLarge {
        /// The device.
        id: String,
        /// The port.
        port: String,
        /// Which address space.
        space: Space,
        /// What it needs.
        needed: u64,
        /// What there is.
        window: u64,
        /// What would make it fit.
        advice: String,
    },
    /// It cannot sit there.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// A slot, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The port, which is the bus.
    pub port: String,
    /// How far the slot is with its device.
    pub phase: Phase,
    /// Whether the guest has powered the device.
    pub link_active: bool,
    /// Whether a driver in the guest listens to the slot.
    pub guest_listens: bool,
    /// The ids of the devices in it.
    pub devices: Vec<String>,
}

impl PciHost {
    /// Who carries out what slots decide; set once, before the guest runs.
    pub fn connect_slots(&self, services: Arc<dyn SlotServices>) {
        // A second one is ignored: there is one machine.
        let _already = self.slots.set(services);
    }

    /// Refuses a place that nothing can be plugged into now, before anything is done for the device.
    pub fn check_hot_plug(&self, id: &str, place: &Place) -> Result<(), HotPlugError> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        free_slot(&tree, id, place).map(|_| ())
    }

    /// Puts a function into the slot of a root port and tells the guest.
    pub fn hot_plug(
        &self,
        place: &Place,
        function: Arc<dyn PciFunction>,
    ) -> Result<(), HotPlugError> {
        let id = function.id().to_owned();
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let port = free_slot(&tree, &id, place)?;
        let (slot, registers) = (port.slot, Arc::clone(&port.registers));
        fits(&id, &registers, &function)?;
        tree.functions.insert(&id, place, Arc::clone(&function))?;
        drop(tree);
        function.placed(intx::route_behind_port(slot, place.slot));
        registers.slot_event(Event::Occupied);
        self.settle(&registers);
        Ok(())
    }

    /// Something happens to the slot that holds this device; false if it is in no slot.
    pub fn slot_event(&self, id: &str, event: Event) -> bool {
        let Some(port) = self.port_of(id) else {
            return false;
        };
        port.slot_event(event);
        self.settle(&port);
        true
    }

    /// How far the slot that holds this device is; `None` if it is in no slot.
    pub fn phase_of(&self, id: &str) -> Option<Phase> {
        self.port_of(id).map(|port| port.slot().phase())
    }

    /// The unplug timer of a port fired.
    pub fn eject_timed_out(&self, port: &str) {
        if let Some(port) = self.port_named(port) {
            port.slot_event(Event::EjectTimedOut);
            self.settle(&port);
        }
    }

    /// Takes a function out of the topology: the guest can reach it no more.
    pub fn unplug(&self, id: &str) -> Option<Arc<dyn PciFunction>> {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        tree.functions.remove(id)
    }

    /// The devices behind a port.
    pub fn devices_behind(&self, port: &str) -> Vec<String> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let bus = tree.functions.ports().iter().find(|bus| bus.name() == port);
        bus.into_iter()
            .flat_map(Bus::functions)
            .map(|(_, placed)| placed.id.clone())
            .collect()
    }

    /// Every slot.
    pub fn slots(&self) -> Vec<SlotState> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let state = |(port, bus): (&Port, &Bus<Arc<dyn PciFunction>>)| {
            let slot = port.registers.slot();
            SlotState {
                port: port.id.clone(),
                phase: slot.phase(),
                link_active: slot.link_active(),
                guest_listens: slot.guest_listens(),
                devices: bus
                    .functions()
                    .map(|(_, placed)| placed.id.clone())
                    .collect(),
            }
        };
        tree.ports
            .iter()
            .zip(tree.functions.ports())
            .map(state)
            .collect()
    }

    /// Carries out what a port's slot has decided.
    pub(super) fn settle(&self, port: &Arc<RootPort>) {
        let actions = port.take_actions();
        let Some(services) = self.slots.get() else {
            return;
        };
        for action in &actions {
            match action {
                Action::Interrupt => {
                    if let PortInterrupt::Message { address, data } = port.interrupt() {
                        services.send_msi(address, data);
                    }
                }
                Action::PowerOff if !actions.contains(&Action::Release) => {
                    for function in self.functions_behind(port.id()) {
                        function.reset();
                    }
                }
                Action::PowerOn | Action::PowerOff => {}
                Action::Release
                | Action::StartTimer
                | Action::StopTimer
                | Action::ReportGuestError => {
                    services.carry_out(port.id(), *action);
                }
            }
        }
        if let PortInterrupt::Line { gsi, .. } = port.interrupt() {
            services.set_line(gsi, self.line_level(gsi));
        }
    }

    /// The level of an interrupt controller input as far as root ports drive it.
    fn line_level(&self, gsi: u32) -> bool {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let high = PortInterrupt::Line { gsi, level: true };
        tree.ports
            .iter()
            .any(|port| port.registers.interrupt() == high)
    }

    pub(super) fn port(&self, index: usize) -> Option<Arc<RootPort>> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        tree.ports
            .get(index)
            .map(|port| Arc::clone(&port.registers))
    }

    fn port_named(&self, id: &str) -> Option<Arc<RootPort>> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let port = tree.ports.iter().find(|port| port.id == id)?;
        Some(Arc::clone(&port.registers))
    }

    fn port_of(&self, device: &str) -> Option<Arc<RootPort>> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let holds = |bus: &Bus<_>| bus.functions().any(|(_, placed)| placed.id == device);
        let index = tree.functions.ports().iter().position(holds)?;
        tree.ports
            .get(index)
            .map(|port| Arc::clone(&port.registers))
    }

    fn functions_behind(&self, port: &str) -> Vec<Arc<dyn PciFunction>> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let bus = tree.functions.ports().iter().find(|bus| bus.name() == port);
        let functions = bus.into_iter().flat_map(Bus::functions);
        functions
            .map(|(_, placed)| Arc::clone(&placed.function))
            .collect()
    }
}

fn free_slot<'a>(tree: &'a Tree, id: &str, place: &Place) -> Result<&'a Port, HotPlugError> {
    let id = || id.to_owned();
    if place.bus == ROOT_BUS {
        return Err(HotPlugError::RootBus { id: id() });
    }
    let no_bus = || PlaceError::NoBus {
        id: id(),
        bus: place.bus.clone(),
    };
    let index = tree
        .ports
        .iter()
        .position(|port| port.id == place.bus)
        .ok_or_else(no_bus)?;
    let (port, bus) = match (tree.ports.get(index), tree.functions.ports().get(index)) {
        (Some(port), Some(bus)) => (port, bus),
        (None, _) | (_, None) => return Err(no_bus().into()),
    };
    if place.slot != 0 {
        return Err(PlaceError::SlotBehindPort {
            id: id(),
            slot: place.slot,
        }
        .into());
    }
    if place.function != 0 {
        return Err(HotPlugError::NotFunctionZero {
            id: id(),
            devfn: place.function,
        });
    }
    let state = match port.registers.slot().phase() {
        Phase::Empty | Phase::Gone => "it is still releasing",
        Phase::Present | Phase::Queued => "it holds",
        Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue => "the guest is letting go of",
    };
    match bus.functions().next() {
        Some((_, placed)) => Err(HotPlugError::SlotInUse {
            port: port.id.clone(),
            state,
            owner: placed.id.clone(),
        }),
        None => Ok(port),
    }
}

/// The function's BARs fit the windows that the port has.
fn fits(id: &str, port: &RootPort, function: &Arc<dyn PciFunction>) -> Result<(), HotPlugError> {
    let request = FunctionRequest {
        id: id.to_owned(),
        devfn: 0,
        bars: function.bars(),
    };
    let plan = port.plan();
    let window = |of: fn(&BridgePlan) -> Option<AddressRange>| plan.as_ref().and_then(of);
    let spaces = [
        (
            Space::Memory32,
            window(|plan| plan.memory),
            "mem-reserve",
            MAX_MEM_RESERVE,
        ),
        (
            Space::Memory64,
            window(|plan| plan.prefetchable),
            "pref64-reserve",
            MAX_PREF64_RESERVE,
        ),
        (
            Space::Io,
            window(|plan| plan.io),
            "io-reserve",
            MAX_IO_RESERVE,
        ),
    ];
    for (space, window, option, limit) in spaces {
        if let Err(needed) = fit(&request, space, window) {
            let advice = if needed > limit {
                "that is more than a port can have: pass it on pcie.0 from the start".to_owned()
            } else {
                format!("start the VM with {option}={needed:#x} (or more) on the port")
            };
            return Err(HotPlugError::TooLarge {
                id: id.to_owned(),
                port: port.id().to_owned(),
                space,
                needed,
                window: window.map_or(0, |window| window.len),
                advice,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
