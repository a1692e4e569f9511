//! The client side of one device: a PCI function of the guest whose device lives behind a vfio-user socket.
//!
//! Every answer of the server is hostile, and so is every access of the guest.
//!
//! | File | Question it answers |
//! |---|---|
//! | `attach` | how a socket becomes a function |
//! | `function` | what a guest access or a reset does, in which order; what happens when the device is lost |
//! | `interrupts` | which kind of interrupt is on |
//! | `vectors` | how MSI and MSI-X reach the guest |
//! | `intx` | how the pin reaches the guest |
//! | `host_notices` | how the host's kernel tells of an error, or wants the device back |
//! | `bars` | where the guest reaches BARs, mapped or trapped |
//! | `bar_file` | which files of a server may become memory of the guest |
//! | `doorbells` | which writes the server hears of without a message |
//! | `notices` | what is said of the server's answers, once |
//! | `dma` | which memory the device may use |
//! | `config` | which configuration bytes are ours, which the device's |
//! | `msi`, `msix` | what the guest's interrupt registers say |
//! | `describe` | does the device make sense |
//! | `capabilities` | where its capabilities are |
//!
//! Not supported: VGA regions, migration.

pub mod attach;
pub mod function;
pub mod interrupts;
pub mod vectors;
pub mod intx;
pub mod host_notices;
pub mod bars;
mod doorbells;
mod bar_file;
pub mod dma;
pub mod config;
pub mod msi;
pub mod msix;
pub mod describe;
pub mod capabilities;
pub mod latency;
mod notices;
mod wire;

use std::sync::Arc;

use crate::address_space::AddressSpaces;
use crate::kvm::Vm;
use crate::memory::ram::GuestRam;
use crate::pci::PciWindows;

pub use attach::{AttachCause, AttachError, Begun, attach, begin};
pub use function::VfioUserFunction;

/// What of the VM a device needs.
#[derive(Clone, Debug)]
pub struct VmServices {
    /// Memory slots and interrupt routes.
    pub vm: Arc<Vm>,
    /// Where trapped accesses are registered.
    pub spaces: Arc<AddressSpaces>,
    /// What the device may use.
    pub ram: Arc<GuestRam>,
    /// Where BARs may be.
    pub windows: PciWindows,
    /// Whether the host's CPU could leak memory through mapped BARs.
    pub bars_leak: bool,
}

impl VmServices {
    /// The parts of one VM.
    pub fn new(
        vm: &Arc<Vm>,
        spaces: &Arc<AddressSpaces>,
        ram: &Arc<GuestRam>,
        windows: PciWindows,
        bars_leak: bool,
    ) -> VmServices {
        let (vm, spaces, ram) = (Arc::clone(vm), Arc::clone(spaces), Arc::clone(ram));
        VmServices {
            vm,
            spaces,
            ram,
            windows,
            bars_leak,
        }
    }
}

#[cfg(test)]
mod tests;
