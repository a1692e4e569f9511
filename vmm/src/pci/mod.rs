//! The guest's PCI topology: a PCI Express root bus, root ports, and the functions in them.
//!
//! | File | Question it answers |
//! |---|---|
//! | `root` | which function a configuration access reaches; who programs the functions before the guest runs |
//! | `config_access` | how a guest access becomes accesses of one function |
//! | `root_port` | what a root port's registers do |
//! | `slot` | what the hot-plug controller of a port does (a pure state machine) |
//! | `root/hot_plug` | who carries that out in the topology |
//! | `root/inspect` | what is where, for the operator |
//! | `host_bridge` | what function 00:00.0 is |
//! | `topology` | which device may sit where |
//! | `allocate` | which addresses and bus numbers firmware would give |
//! | `function` | what the host needs of a function |
//! | `bar` | how BARs are sized and what they decode |
//! | `config_space` | how emulated configuration registers behave |
//! | `intx` | where interrupt pins arrive |

pub mod root;
mod config_access;
pub mod root_port;
pub mod slot;
pub mod host_bridge;
pub mod topology;
pub mod allocate;
pub mod intx;
pub mod config_space;
pub mod function;
pub mod bar;

pub use crate::address_space::AddressRange;
pub use allocate::PciWindows;
pub use bar::{BarKind, BarRequest};
pub use function::{IntxRoute, PciFunction};
pub use intx::intx_gsi;
pub use root::{FunctionState, HotPlugError, PciError, PciHost, SlotServices, SlotState};
pub use topology::PlaceError;
