//! The PCI host: finds the function that a configuration access means, and programs all functions as firmware would.
//!
//! Which function is meant follows from the bus numbers in the root ports' registers, so a guest may renumber buses.
//! No lock is held while a function is called: it may need a round trip to its device server.
//! Limits: one PCI segment, buses 0 to 255, one level of root ports.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::allocate::{
    AllocateError, BarPlan, FunctionRequest, PciWindows, Plan, PortRequest, PortReserve, allocate,
};
use super::bar::{BarKind, ROM};
use super::config_access::{self, Ecam, Ports};
use super::function::PciFunction;
use super::host_bridge::HostBridge;
use super::intx;
use super::root_port::RootPort;
use super::topology::{Bus, PlaceError, Placed, Topology, devfn};
use crate::address_space::{AddressSpaces, Overlap};
use crate::config::place::ROOT_BUS;
use crate::config::{Place, RootPortConfig};

mod hot_plug;
mod inspect;

pub use hot_plug::{HotPlugError, SlotServices, SlotState};
pub use inspect::FunctionState;

const HEADER_TYPE: u16 = 0x0e;
const MULTIFUNCTION: u8 = 1 << 7;
const FIRST_BAR: u16 = 0x10;
const ROM_REGISTER: u16 = 0x30;
const INTERRUPT_LINE: u16 = 0x3c;

/// The topology cannot be built or programmed.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// A device cannot be where it was put.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Addresses do not fit.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// The board put something else at the host's own addresses.
    #[error("Register the PCI configuration space")]
    Trap(#[from] Overlap),
}

/// All PCI functions of the guest.
pub struct PciHost {
    windows: PciWindows,
    tree: RwLock<Tree>,
    slots: OnceLock<Arc<dyn SlotServices>>,
}

#[derive(Default)]
struct Tree {
    functions: Topology<Arc<dyn PciFunction>>,
    ports: Vec<Port>,
}

struct Port {
    id: String,
    slot: u8,
    devfn: u8,
    reserve: PortReserve,
    registers: Arc<RootPort>,
}

/// What one configuration access reaches.
struct Target {
    function: Arc<dyn PciFunction>,
    /// The header type's multifunction bit, for function 0.
    multifunction: bool,
    /// Set if the function is a root port: its number in the list.
    port: Option<usize>,
}

impl PciHost {
    /// A root bus with the host bridge in slot 0, reachable by ECAM and ports.
    pub fn new(windows: PciWindows, spaces: &AddressSpaces) -> Result<Arc<PciHost>, PciError> {
        let tree = RwLock::new(Tree::default());
        let slots = OnceLock::new();
        let host = Arc::new(PciHost {
            windows,
            tree,
            slots,
        });
        spaces
            .mmio
            .insert(windows.ecam, Arc::new(Ecam(Arc::downgrade(&host))))?;
        spaces.pio.insert(
            config_access::PORTS,
            Arc::new(Ports::new(Arc::downgrade(&host))),
        )?;
        let bridge = Place {
            bus: ROOT_BUS.to_owned(),
            slot: 0,
            function: 0,
            multifunction: false,
        };
        host.plug(&bridge, Arc::new(HostBridge::new()))?;
        Ok(host)
    }

    /// The windows that addresses are taken from.
    pub fn windows(&self) -> &PciWindows {
        &self.windows
    }

    /// Adds a root port and the bus behind it.
    pub fn add_root_port(&self, config: &RootPortConfig) -> Result<(), PciError> {
        let registers = Arc::new(RootPort::new(&config.id, config.port));
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let place = &config.place;
        tree.functions
            .insert_port(&config.id, place, Arc::<RootPort>::clone(&registers) as _)?;
        let devfn = devfn(place.slot, place.function);
        tree.ports.push(Port {
            id: config.id.clone(),
            slot: place.slot,
            devfn,
            reserve: reserve(config),
            registers,
        });
        Ok(())
    }

    /// Puts a function into its place and tells it where its interrupt pins go.
    pub fn plug(&self, place: &Place, function: Arc<dyn PciFunction>) -> Result<(), PciError> {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let id = function.id().to_owned();
        tree.functions.insert(&id, place, Arc::clone(&function))?;
        let port = tree.ports.iter().find(|port| port.id == place.bus);
        let route = match port {
            Some(port) => intx::route_behind_port(port.slot, place.slot),
            None => intx::route_on_root_bus(place.slot),
        };
        if let Some(port) = port {
            port.registers.occupy_at_power_on();
        }
        drop(tree);
        function.placed(route);
        Ok(())
    }

    /// What firmware does before the operating system runs: bus numbers, bridge windows, BARs, interrupt lines.
    /// BARs of devices are placed but do not decode yet; the guest's driver turns them on.
    pub fn program(&self) -> Result<(), PciError> {
        let (plan, work) = {
            let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
            tree.functions.check()?;
            (self.plan(&tree)?, tree.work())
        };
        for (port, bridge) in work.ports.iter().zip(&plan.bridges) {
            port.program(bridge);
        }
        for (bus, devfn, function) in &work.functions {
            for bar in plan
                .bars
                .iter()
                .filter(|bar| (bar.bus, bar.devfn) == (*bus, *devfn))
            {
                write_bar(function.as_ref(), bar);
            }
        }
        for (slot, function) in &work.lines {
            write_interrupt_line(function.as_ref(), *slot);
        }
        Ok(())
    }

    /// The guest was reset: so is every function. [`Self::program`] must follow.
    pub fn reset(&self) {
        let work = self
            .tree
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .work();
        for (_, _, function) in &work.functions {
            function.reset();
        }
        // All of them at once: each may take a minute.
        for (_, _, function) in &work.functions {
            function.finish_reset();
        }
        for port in &work.ports {
            self.settle(port);
        }
    }

    fn plan(&self, tree: &Tree) -> Result<Plan, AllocateError> {
        let ports: Vec<PortRequest> = tree
            .functions
            .ports()
            .iter()
            .zip(&tree.ports)
            .map(|(bus, port)| PortRequest {
                id: bus.name().to_owned(),
                reserve: port.reserve,
                functions: requests(bus),
            })
            .collect();
        allocate(&self.windows, &requests(tree.functions.root()), &ports)
    }

    /// Reads configuration space of any bus; absent functions and offsets read as ones.
    pub(super) fn read(&self, bus: u8, devfn: u8, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(target) = self.target(bus, devfn) else {
            return;
        };
        target.function.config_read(offset, data);
        let header_type = usize::from(HEADER_TYPE).checked_sub(usize::from(offset));
        // All ones is no header type: the device is lost and must look absent.
        if let Some(byte) = header_type
            .and_then(|at| data.get_mut(at))
            .filter(|byte| **byte != 0xff)
        {
            let bit = if target.multifunction {
                MULTIFUNCTION
            } else {
                0
            };
            *byte = *byte & !MULTIFUNCTION | bit;
        }
    }

    pub(super) fn write(&self, bus: u8, devfn: u8, offset: u16, data: &[u8]) {
        let Some(target) = self.target(bus, devfn) else {
            return;
        };
        target.function.config_write(offset, data);
        let Some(index) = target.port else { return };
        for function in self.after_bus_reset(index) {
            function.reset();
        }
        if let Some(port) = self.port(index) {
            self.settle(&port);
        }
    }

    /// What must be reset because the guest has just reset the bus behind a port.
    fn after_bus_reset(&self, port: usize) -> Vec<Arc<dyn PciFunction>> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let reset = tree
            .ports
            .get(port)
            .is_some_and(|port| port.registers.take_bus_reset());
        let behind = tree.functions.ports().get(port).filter(|_| reset);
        behind
            .into_iter()
            .flat_map(Bus::functions)
            .map(|(_, placed)| Arc::clone(&placed.function))
            .collect()
    }

    fn target(&self, bus: u8, devfn: u8) -> Option<Target> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let placed = if bus == 0 {
            tree.functions.root().at(devfn)?
        } else {
            let port = tree
                .ports
                .iter()
                .position(|port| port.registers.buses().0 == bus)?;
            // Nothing behind a port without link can be reached.
            let linked = tree.ports.get(port)?.registers.slot().link_active();
            let bus = tree.functions.ports().get(port).filter(|_| linked)?;
            bus.at(devfn)?
        };
        let port = if bus == 0 {
            tree.ports.iter().position(|port| port.devfn == devfn)
        } else {
            None
        };
        let Placed {
            function,
            multifunction,
            ..
        } = placed;
        Some(Target {
            function: Arc::clone(function),
            multifunction: *multifunction,
            port,
        })
    }
}

impl std::fmt::Debug for PciHost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PciHost")
            .field("windows", &self.windows)
            .finish_non_exhaustive()
    }
}

/// Everything that [`PciHost::program`] and [`PciHost::reset`] call, taken out of the tree.
struct Work {
    ports: Vec<Arc<RootPort>>,
    functions: Vec<(u8, u8, Arc<dyn PciFunction>)>,
    /// Each function with the root bus slot whose pins it uses.
    lines: Vec<(u8, Arc<dyn PciFunction>)>,
}

impl Tree {
    fn work(&self) -> Work {
        let ports = self
            .ports
            .iter()
            .map(|port| Arc::clone(&port.registers))
            .collect();
        let mut work = Work {
            ports,
            functions: Vec::new(),
            lines: Vec::new(),
        };
        for (devfn, placed) in self.functions.root().functions() {
            work.add(0, devfn >> 3, devfn, &placed.function);
        }
        for ((bus, port), number) in self
            .functions
            .ports()
            .iter()
            .zip(&self.ports)
            .zip(1..=u8::MAX)
        {
            for (devfn, placed) in bus.functions() {
                work.add(number, port.slot, devfn, &placed.function);
            }
        }
        work
    }
}

impl Work {
    fn add(&mut self, bus: u8, slot: u8, devfn: u8, function: &Arc<dyn PciFunction>) {
        self.functions.push((bus, devfn, Arc::clone(function)));
        self.lines.push((slot, Arc::clone(function)));
    }
}

fn reserve(config: &RootPortConfig) -> PortReserve {
    let default = PortReserve::default();
    PortReserve {
        io: config.io_reserve,
        memory: config.mem_reserve.unwrap_or(default.memory),
        prefetchable: config.pref64_reserve.unwrap_or(default.prefetchable),
    }
}

fn requests(bus: &Bus<Arc<dyn PciFunction>>) -> Vec<FunctionRequest> {
    bus.functions()
        .map(|(devfn, placed)| FunctionRequest {
            id: placed.id.clone(),
            devfn,
            bars: placed.function.bars(),
        })
        .collect()
}

fn write_bar(function: &dyn PciFunction, plan: &BarPlan) {
    let index = plan.bar.index;
    let offset = if index == ROM {
        ROM_REGISTER
    } else {
        FIRST_BAR + 4 * u16::from(index)
    };
    let bytes = plan.address.to_le_bytes();
    let (low, high) = bytes.split_at(4);
    function.config_write(offset, low);
    if matches!(plan.bar.kind, BarKind::Memory64 { .. }) {
        function.config_write(offset + 4, high);
    }
}

fn write_interrupt_line(function: &dyn PciFunction, slot: u8) {
    let mut registers = [0; 2];
    function.config_read(INTERRUPT_LINE, &mut registers);
    if let Some(pin) = registers[1].checked_sub(1).filter(|pin| *pin < intx::PINS) {
        let [line, ..] = intx::intx_gsi(slot, pin).to_le_bytes();
        function.config_write(INTERRUPT_LINE, &[line]);
    }
}

#[cfg(test)]
mod tests;
