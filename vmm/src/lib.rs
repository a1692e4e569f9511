//! KVM, guest RAM, PCI topology and the supervisor stage.
//!
//! The order of the modules is the order of their layers: a module uses only modules below it.

pub mod supervisor;
pub mod run;
pub mod hotplug;
pub mod qmp;
pub mod machine;
pub mod vfio_user;
pub mod pci;
pub mod kvm;
pub mod memory;
pub mod address_space;
pub mod event_loop;
pub mod threads;
pub mod cli;
pub mod config;
pub mod one_line;
