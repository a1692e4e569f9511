//! What firmware does before the operating system: bus numbers, bridge windows and BAR addresses.
//!
//! Pure: takes the decoders of every function and the host's windows, gives the addresses or says what does not fit.
//! Rules that Linux checks and would otherwise repair by moving things: every BAR aligned to its size and inside a window
//! of the host or of its bridge; 64-bit prefetchable BARs behind a port in the port's prefetchable window, all other
//! memory BARs behind a port in its 32-bit window; windows in steps of 1 MiB (memory) and 4 KiB (I/O).
//! Memory BARs get at least a page each, so that no page belongs to two devices.
//! Limits: 255 ports (bus numbers).

mod behind_port;
mod free_space;

use std::cmp::Reverse;

use behind_port::Inside;
pub use behind_port::fit;
use free_space::FreeSpace;

use super::AddressRange;
use super::bar::{BarKind, BarRequest};

const PAGE_BYTES: u64 = 4096;
const MEMORY_WINDOW_STEP: u64 = 1 << 20;
const IO_WINDOW_STEP: u64 = 4096;

/// The host's address windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWindows {
    /// Enhanced configuration access: 1 MiB per bus.
    pub ecam: AddressRange,
    /// Memory below 4 GiB.
    pub mmio32: AddressRange,
    /// Memory above RAM.
    pub mmio64: AddressRange,
    /// I/O ports.
    pub pio: AddressRange,
}

/// Space that a root port gets even when nothing behind it needs it, for what is plugged later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortReserve {
    /// Bytes of I/O ports. `None`: one step, given up for all such ports where the I/O window has no room for it.
    pub io: Option<u64>,
    /// Bytes of 32-bit memory.
    pub memory: u64,
    /// Bytes of 64-bit prefetchable memory.
    pub prefetchable: u64,
}

impl Default for PortReserve {
    fn default() -> Self {
        Self {
            io: None,
            memory: 2 << 20,
            prefetchable: 2 << 20,
        }
    }
}

/// The decoders of one function.
#[derive(Clone, Debug)]
pub struct FunctionRequest {
    /// The device id, for errors.
    pub id: String,
    /// Device number times eight plus function number, on its bus.
    pub devfn: u8,
    /// Its decoders.
    pub bars: Vec<BarRequest>,
}

/// A root port and what is behind it.
#[derive(Clone, Debug)]
pub struct PortRequest {
    /// The port's id, for errors.
    pub id: String,
    /// What is kept free behind it.
    pub reserve: PortReserve,
    /// The functions behind it.
    pub functions: Vec<FunctionRequest>,
}

/// Where one BAR goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarPlan {
    /// 0 is the root bus, n the bus of the n-th port.
    pub bus: u8,
    /// The function on it.
    pub devfn: u8,
    /// What was asked.
    pub bar: BarRequest,
    /// Its address.
    pub address: u64,
}

/// Bus number and windows of one root port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePlan {
    /// Secondary and subordinate bus.
    pub bus: u8,
    /// I/O window.
    pub io: Option<AddressRange>,
    /// 32-bit memory window.
    pub memory: Option<AddressRange>,
    /// 64-bit prefetchable memory window.
    pub prefetchable: Option<AddressRange>,
}

/// All addresses of a topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One entry per decoder.
    pub bars: Vec<BarPlan>,
    /// One entry per port, in their order.
    pub bridges: Vec<BridgePlan>,
}

/// Something does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllocateError {
    /// A window has no room for this.
    #[error(
        "Place {what} ({size:#x} bytes, {space}): the {space} window of {window:#x} bytes has at most {free:#x} free in one \
         piece; pass fewer devices or devices with smaller BARs"
    )]
    NoRoom {
        /// Which BAR of which device, or which bridge window.
        what: String,
        /// What it needs.
        size: u64,
        /// The address space, in words.
        space: Space,
        /// Size of the whole window.
        window: u64,
        /// Largest free piece.
        free: u64,
    },
    /// More ports than bus numbers.
    #[error("Number the buses: {0} root ports, but PCI has 256 buses")]
    TooManyPorts(usize),
}

/// The three address spaces that BARs decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory above RAM.
    Memory64,
}

impl std::fmt::Display for Space {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Space::Io => "I/O",
            Space::Memory32 => "32-bit memory",
            Space::Memory64 => "64-bit memory",
        })
    }
}

/// Places everything on the root bus and behind the ports.
pub fn allocate(
    windows: &PciWindows,
    root: &[FunctionRequest],
    ports: &[PortRequest],
) -> Result<Plan, AllocateError> {
    let mut plan = Plan::default();
    for (index, _) in ports.iter().enumerate() {
        let bus = u8::try_from(index + 1).map_err(|_| AllocateError::TooManyPorts(ports.len()))?;
        plan.bridges.push(BridgePlan {
            bus,
            io: None,
            memory: None,
            prefetchable: None,
        });
    }
    for (space, window) in [
        (Space::Io, windows.pio),
        (Space::Memory32, windows.mmio32),
        (Space::Memory64, windows.mmio64),
    ] {
        let behind: Vec<Inside> = ports.iter().map(|port| Inside::of(port, space)).collect();
        let before = plan.clone();
        let placed = place_space(space, window, root, &behind, &mut plan);
        if space == Space::Io && placed.is_err() {
            plan = before;
            let needed: Vec<Inside> = behind
                .into_iter()
                .zip(ports)
                .map(|(inside, port)| match port.reserve.io {
                    None => inside.without_reserve(),
                    Some(_) => inside,
                })
                .collect();
            place_space(space, window, root, &needed, &mut plan)?;
        } else {
            placed?;
        }
    }
    Ok(plan)
}

/// One thing to place in a host window.
enum Item<'a> {
    Bar {
        id: &'a str,
        devfn: u8,
        bar: BarRequest,
    },
    Window {
        port: usize,
        inside: &'a Inside,
    },
}

impl Item<'_> {
    fn size(&self) -> u64 {
        match self {
            Item::Bar { bar, .. } => footprint(bar),
            Item::Window { inside, .. } => inside.size,
        }
    }

    fn align(&self) -> u64 {
        match self {
            Item::Bar { bar, .. } => footprint(bar),
            Item::Window { inside, .. } => inside.align,
        }
    }

    fn name(&self) -> String {
        match self {
            Item::Bar { id, bar, .. } if bar.kind == BarKind::Rom => {
                format!("the expansion ROM of device {id}")
            }
            Item::Bar { id, bar, .. } => format!("BAR {} of device {id}", bar.index),
            Item::Window { inside, .. } => format!("the window of root port {}", inside.id),
        }
    }
}

fn place_space(
    space: Space,
    window: AddressRange,
    root: &[FunctionRequest],
    behind: &[Inside],
    plan: &mut Plan,
) -> Result<(), AllocateError> {
    let mut items: Vec<Item<'_>> = Vec::new();
    for function in root {
        let bars = function
            .bars
            .iter()
            .filter(|bar| space_on_root_bus(bar.kind) == space);
        items.extend(bars.map(|bar| Item::Bar {
            id: &function.id,
            devfn: function.devfn,
            bar: *bar,
        }));
    }
    let windows = behind
        .iter()
        .enumerate()
        .filter(|(_, inside)| inside.size > 0);
    items.extend(windows.map(|(port, inside)| Item::Window { port, inside }));
    items.sort_by_key(|item| Reverse((item.align(), item.size())));
    let mut free = FreeSpace::new(window);
    for item in items {
        let size = item.size();
        let address = free
            .take(size, item.align())
            .ok_or_else(|| AllocateError::NoRoom {
                what: item.name(),
                size,
                space,
                window: window.len,
                free: free.largest(),
            })?;
        record(plan, space, &item, address);
    }
    Ok(())
}

fn record(plan: &mut Plan, space: Space, item: &Item<'_>, address: u64) {
    match item {
        Item::Bar { devfn, bar, .. } => plan.bars.push(BarPlan {
            bus: 0,
            devfn: *devfn,
            bar: *bar,
            address,
        }),
        Item::Window { port, inside } => {
            let Some(bridge) = plan.bridges.get_mut(*port) else {
                return;
            };
            let range = Some(AddressRange {
                start: address,
                len: inside.size,
            });
            match space {
                Space::Io => bridge.io = range,
                Space::Memory32 => bridge.memory = range,
                Space::Memory64 => bridge.prefetchable = range,
            }
            let bus = bridge.bus;
            plan.bars
                .extend(inside.bars.iter().map(|(devfn, bar, offset)| BarPlan {
                    bus,
                    devfn: *devfn,
                    bar: *bar,
                    address: address + offset,
                }));
        }
    }
}

/// What a decoder takes of its address space; memory in whole pages.
fn footprint(bar: &BarRequest) -> u64 {
    match bar.kind {
        BarKind::Io => bar.size,
        BarKind::Memory32 { .. } | BarKind::Memory64 { .. } | BarKind::Rom => {
            bar.size.max(PAGE_BYTES)
        }
    }
}

fn space_on_root_bus(kind: BarKind) -> Space {
    match kind {
        BarKind::Io => Space::Io,
        BarKind::Memory32 { .. } | BarKind::Rom => Space::Memory32,
        BarKind::Memory64 { .. } => Space::Memory64,
    }
}

/// The prefetchable window of a port is its only 64-bit one, and holds only prefetchable 64-bit BARs.
fn space_behind_port(kind: BarKind) -> Space {
    match kind {
        BarKind::Io => Space::Io,
        BarKind::Memory64 { prefetchable: true } => Space::Memory64,
        BarKind::Memory32 { .. }
        | BarKind::Memory64 {
            prefetchable: false,
        }
        | BarKind::Rom => Space::Memory32,
    }
}

#[cfg(test)]
mod tests;
