//! What is where, for the operator: the functions as the guest finds them now.

use std::sync::{Arc, PoisonError};

use super::{PciFunction, PciHost};
use crate::pci::bar::BarRequest;

/// Bytes of a configuration header.
const HEADER_BYTES: usize = 64;
/// Offset of the header's words.
const WORD: u16 = 4;

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionState {
    /// The bus number that the guest gave; 0 for the root bus, also for a port without one.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
    /// Its id.
    pub id: String,
    /// Its configuration header.
    pub header: [u8; HEADER_BYTES],
    /// Its BARs and its ROM: what they are and how large, not where.
    pub bars: Vec<BarRequest>,
    /// For a root port: secondary bus, subordinate bus.
    pub buses: Option<(u8, u8)>,
}

impl PciHost {
    /// The last bus number that `program` gives out: root ports are there from the start, with one bus each.
    pub fn last_bus(&self) -> u8 {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        u8::try_from(tree.ports.len()).unwrap_or(u8::MAX)
    }

    /// Every function, the root bus first. Asks each device for its header, so it may take a round trip per device.
    pub fn functions(&self) -> Vec<FunctionState> {
        self.listed()
            .into_iter()
            .map(|(mut state, function)| {
                for (offset, word) in (0..)
                    .step_by(usize::from(WORD))
                    .zip(state.header.chunks_exact_mut(usize::from(WORD)))
                {
                    function.config_read(offset, word);
                }
                state.bars = function.bars();
                state
            })
            .collect()
    }

    fn listed(&self) -> Vec<(FunctionState, Arc<dyn PciFunction>)> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let mut list = |bus: u8, devfn: u8, id: &str, buses, function: &Arc<dyn PciFunction>| {
            let state = FunctionState {
                bus,
                devfn,
                id: id.to_owned(),
                header: [0xff; HEADER_BYTES],
                bars: Vec::new(),
                buses,
            };
            found.push((state, Arc::clone(function)));
        };
        for (devfn, placed) in tree.functions.root().functions() {
            let port = tree.ports.iter().find(|port| port.devfn == devfn);
            let buses = port.map(|port| port.registers.buses());
            list(0, devfn, &placed.id, buses, &placed.function);
        }
        for (port, bus) in tree.ports.iter().zip(tree.functions.ports()) {
            for (devfn, placed) in bus.functions() {
                list(
                    port.registers.buses().0,
                    devfn,
                    &placed.id,
                    None,
                    &placed.function,
                );
            }
        }
        found
    }
}
