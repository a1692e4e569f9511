//! The passed devices of a running machine, and how they come and go.
//!
//! | File | Question it answers |
//! |---|---|
//! | `devices` | how devices are attached at the start, and who is asked about all of them |
//! | `listen` | who waits for their connections, and for what the host says of them |
//! | `add` | how `device_add` makes a device, and what is undone when a step fails |
//! | `attacher` | on which thread devices are attached |
//! | `remove` | how a device leaves: asked for, taken, lost, or wanted back |
//! | `worker` | who hears of everything that happens to devices, and what is late |
//! | `lifecycle` | what follows from it (a pure state machine) |
//! | `table` | which devices are there, in which state |
//! | `tasks` | on which threads is done what waits |
//! | `supervisor` | how the supervisor is asked for a device server and told to end one |
//! | `images` | how what is to be booted next is had |
//! | `slots` | how a slot's interrupts reach the guest |
//! | `ready` | when the guest has turned a device on |
//! | `metrics` | what is counted of them, for the metrics socket |
//! | `report` | what `query-hotplug` and `query-vfio-user` answer |
//!
//! The slot's state machine is `pci/slot.rs`.

pub mod devices;
mod add;
mod remove;
mod metrics;
mod report;
mod listen;
mod worker;
mod images;
mod attacher;
mod slots;
mod ready;
mod table;
mod lifecycle;
mod tasks;
pub mod supervisor;

pub use attacher::Attacher;
pub use devices::{DeviceError, Devices, Machine};
pub use images::ImageError;
pub use listen::watch_connections;
pub use metrics::registry;
