//! Which function sits where: buses by name, slots, and the rules of multifunction devices.
//!
//! Spec: PCI Local Bus 3.0 §6.2.1 (bit 7 of the header type), §3.2.2.3.4 (functions are searched only behind function 0).
//! Pure. The texts of the errors are those that users of StratoVirt and QEMU know (reference/peers.md 2.1).
//! Limits: 32 slots of 8 functions on the root bus, slot 0 behind a root port.

use std::collections::BTreeMap;

use crate::config::Place;
use crate::config::place::{FUNCTIONS, ROOT_BUS, SLOTS};

/// A device cannot be where it was put.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// No bus of that name.
    #[error(
        "Parent bus :{bus} not found (device {id}); it is pcie.0 or the id of a pcie-root-port that comes before"
    )]
    NoBus {
        /// The device.
        id: String,
        /// The bus it wants.
        bus: String,
    },
    /// A number out of range.
    #[error(
        "Device {id}: slot {slot} function {function} does not exist; slots are 0 to 31, functions 0 to 7"
    )]
    NoSlot {
        /// The device.
        id: String,
        /// The slot it wants.
        slot: u8,
        /// The function it wants.
        function: u8,
    },
    /// Two with one id.
    #[error("Device {0} is already attached")]
    SameId(String),
    /// Two in one place.
    #[error(
        "Location of the device {id} is same as one of the bus {bus}: {slot:#x}.{function:#x} belongs to {owner}"
    )]
    Occupied {
        /// The device.
        id: String,
        /// The bus.
        bus: String,
        /// The slot.
        slot: u8,
        /// The function.
        function: u8,
        /// Who is there.
        owner: String,
    },
    /// A port has one slot.
    #[error(
        "The slot number of the device attached to the root port must be 0, device {id} asks for slot {slot}"
    )]
    SlotBehindPort {
        /// The device.
        id: String,
        /// The slot it wants.
        slot: u8,
    },
    /// A port behind a port.
    #[error("Root port {id} must be on bus {ROOT_BUS}: a port behind a port is not supported")]
    PortBehindPort {
        /// The port.
        id: String,
    },
    /// Function 0 is there and alone.
    #[error(
        "PCI: single function device can't be populated in bus {bus} function {slot}.{function}; add multifunction=on to \
         the device in function {slot}.0"
    )]
    SingleFunction {
        /// The bus.
        bus: String,
        /// The slot.
        slot: u8,
        /// The function that is refused.
        function: u8,
    },
    /// Function 0 comes last and says it is alone.
    #[error(
        "PCI: {slot}.0 indicates single function, but {slot}.{function} is already populated; add multifunction=on to {id}"
    )]
    ClaimsSingle {
        /// The device.
        id: String,
        /// The slot.
        slot: u8,
        /// A function that is there.
        function: u8,
    },
    /// Functions without function 0 are invisible.
    #[error(
        "Device {id} in bus {bus} function {slot}.{function} cannot be found by a guest: there is no function {slot}.0"
    )]
    NoFunctionZero {
        /// The device.
        id: String,
        /// The bus.
        bus: String,
        /// The slot.
        slot: u8,
        /// Its function.
        function: u8,
    },
}

/// Slot and function as they are in a configuration address.
pub fn devfn(slot: u8, function: u8) -> u8 {
    slot << 3 | function & 7
}

/// A function and the word of its owner that its slot has others.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The device id.
    pub id: String,
    /// `multifunction=on`.
    pub multifunction: bool,
    /// The function itself.
    pub function: T,
}

/// The functions of one bus, by devfn.
#[derive(Debug)]
pub struct Bus<T> {
    name: String,
    functions: BTreeMap<u8, Placed<T>>,
}

/// The root bus, and one bus for each root port.
#[derive(Debug)]
pub struct Topology<T> {
    root: Bus<T>,
    ports: Vec<Bus<T>>,
}

impl<T> Default for Topology<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Topology<T> {
    /// An empty root bus.
    pub fn new() -> Self {
        Self {
            root: Bus::new(ROOT_BUS),
            ports: Vec::new(),
        }
    }

    /// Puts a function into its place, or says why it cannot be there.
    pub fn insert(&mut self, id: &str, place: &Place, function: T) -> Result<(), PlaceError> {
        if self
            .buses()
            .any(|bus| bus.functions.values().any(|placed| placed.id == id))
        {
            return Err(PlaceError::SameId(id.to_owned()));
        }
        let no_bus = || PlaceError::NoBus {
            id: id.to_owned(),
            bus: place.bus.clone(),
        };
        let is_root = place.bus == ROOT_BUS;
        if !is_root && place.slot != 0 {
            return Err(match self.ports.iter().any(|bus| bus.name == place.bus) {
                true => PlaceError::SlotBehindPort {
                    id: id.to_owned(),
                    slot: place.slot,
                },
                false => no_bus(),
            });
        }
        let bus = if is_root {
            Some(&mut self.root)
        } else {
            self.ports.iter_mut().find(|bus| bus.name == place.bus)
        };
        bus.ok_or_else(no_bus)?.insert(id, place, function)
    }

    /// Puts a root port into its place and makes the bus behind it, which has the port's id.
    pub fn insert_port(&mut self, id: &str, place: &Place, function: T) -> Result<(), PlaceError> {
        if place.bus != ROOT_BUS && self.ports.iter().any(|bus| bus.name == place.bus) {
            return Err(PlaceError::PortBehindPort { id: id.to_owned() });
        }
        self.insert(id, place, function)?;
        self.ports.push(Bus::new(id));
        Ok(())
    }

    /// Takes a function out. Nothing happens if it is not there.
    pub fn remove(&mut self, id: &str) -> Option<T> {
        std::iter::once(&mut self.root)
            .chain(&mut self.ports)
            .find_map(|bus| bus.remove(id))
    }

    /// The root bus.
    pub fn root(&self) -> &Bus<T> {
        &self.root
    }

    /// The buses behind the ports, in the order in which the ports came.
    pub fn ports(&self) -> &[Bus<T>] {
        &self.ports
    }

    /// Refuses functions that no guest can find.
    pub fn check(&self) -> Result<(), PlaceError> {
        for bus in self.buses() {
            for (devfn, placed) in &bus.functions {
                let (slot, function) = (devfn >> 3, devfn & 7);
                if !bus.functions.contains_key(&(slot << 3)) {
                    let (id, bus) = (placed.id.clone(), bus.name.clone());
                    return Err(PlaceError::NoFunctionZero {
                        id,
                        bus,
                        slot,
                        function,
                    });
                }
            }
        }
        Ok(())
    }

    fn buses(&self) -> impl Iterator<Item = &Bus<T>> {
        std::iter::once(&self.root).chain(&self.ports)
    }
}

impl<T> Bus<T> {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            functions: BTreeMap::new(),
        }
    }

    /// `pcie.0`, or the id of the port above.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The function at a devfn.
    pub fn at(&self, devfn: u8) -> Option<&Placed<T>> {
        self.functions.get(&devfn)
    }

    /// All functions, lowest devfn first.
    pub fn functions(&self) -> impl Iterator<Item = (u8, &Placed<T>)> {
        self.functions
            .iter()
            .map(|(devfn, placed)| (*devfn, placed))
    }

    fn insert(&mut self, id: &str, place: &Place, function: T) -> Result<(), PlaceError> {
        let (slot, number) = (place.slot, place.function);
        if slot >= SLOTS || number >= FUNCTIONS {
            return Err(PlaceError::NoSlot {
                id: id.to_owned(),
                slot,
                function: number,
            });
        }
        let bus = self.name.clone();
        if let Some(owner) = self.at(devfn(slot, number)) {
            let owner = owner.id.clone();
            return Err(PlaceError::Occupied {
                id: id.to_owned(),
                bus,
                slot,
                function: number,
                owner,
            });
        }
        match self.at(devfn(slot, 0)) {
            Some(zero) if !zero.multifunction => {
                return Err(PlaceError::SingleFunction {
                    bus,
                    slot,
                    function: number,
                });
            }
            Some(_) | None => {}
        }
        let other = self
            .functions
            .keys()
            .find(|taken| *taken >> 3 == slot)
            .map(|taken| taken & 7);
        if let (0, false, Some(function)) = (number, place.multifunction, other) {
            return Err(PlaceError::ClaimsSingle {
                id: id.to_owned(),
                slot,
                function,
            });
        }
        let placed = Placed {
            id: id.to_owned(),
            multifunction: place.multifunction,
            function,
        };
        self.functions.insert(devfn(slot, number), placed);
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Option<T> {
        let devfn = self
            .functions
            .iter()
            .find(|(_, placed)| placed.id == id)
            .map(|(devfn, _)| *devfn)?;
        self.functions.remove(&devfn).map(|placed| placed.function)
    }
}

#[cfg(test)]
mod tests;
