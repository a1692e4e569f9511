//! KVM: the only module that names `kvm_ioctls`.
//!
//! | File | Question it answers |
//! |---|---|
//! | `vm` | what a virtual machine is made of, and how it is put back to its first state |
//! | `vcpu_set` | who runs the vCPU threads, how they stop and go on |
//! | `vcpu` | what a vCPU is set to before it runs |
//! | `exit` | what happens when a vCPU leaves the guest |
//! | `irq_routing` | which interrupt goes where |
//! | `memory_slots` | what the guest reaches without an exit |
//! | `ioevents` | which guest writes signal an eventfd |
//! | `device_mapping` | how a BAR is mapped without ever being read here |
//! | `handles` | what kvm_ioctls offers only as raw fds and unions |
//!
//! Not supported: split irqchip, dirty logging, more than [`MAX_VCPUS`] vCPUs.

pub mod ioevents;
pub mod vm;
pub mod vcpu_set;
pub mod exit;
pub mod vcpu;
pub mod irq_routing;
pub mod memory_slots;
pub mod device_mapping;
pub mod error;
mod handles;

#[cfg(test)]
pub(crate) mod tests;

pub use device_mapping::DeviceMapping;
pub use error::KvmError;
pub use exit::{FatalExit, MemoryFaultHandler};
pub use ioevents::IoEvent;
pub use irq_routing::{Gsi, IrqRouting, MsiMessage};
pub use memory_slots::{MemorySlots, SlotId};
pub use vcpu::{CpuState, Vcpu};
pub use vcpu_set::VcpuSet;
pub use vm::Vm;

/// Most vCPUs of one machine: what fits in eight-bit APIC ids with room, and what is tested by size tables.
pub const MAX_VCPUS: u8 = 32;
