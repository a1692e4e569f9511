//! The passed devices of a running machine, and how they come and go.
//!
//! | File | Question it answers |
//! |---|---|
//! | `devices` | which devices are there, in which state; who is asked about them |
//! | `add` | how `device_add` makes a device, and what is undone when a step fails |
//! | `remove` | how a device leaves: asked for, taken, or lost |
//! | `worker` | who does what slots decide, and keeps their timers, never on a vCPU's thread |
//! | `attacher` | on which thread devices are attached |
//! | `releases` | on which threads devices are let go |
//! | `supervisor` | how the supervisor is asked for a device server and told to end one |
//! | `slots` | how a slot's interrupts reach the guest |
//! | `ready` | when the guest has turned a device on |
//! | `report` | what `query-hotplug` and `query-vfio-user` answer |
//!
//! The slot's state machine is `pci/slot.rs`. Locks: the table's lock is never held across a call into a device, the topology
//! or the supervisor.

pub mod devices;
mod add;
mod remove;
mod report;
mod worker;
mod releases;
mod attacher;
mod slots;
mod ready;
pub mod supervisor;

pub use attacher::Attacher;
pub use devices::{DeviceError, Devices, Machine, watch_connections};
