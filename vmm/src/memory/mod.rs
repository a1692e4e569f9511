//! Guest RAM and the guest's address map.
//!
//! `layout` says where things are, `ram` makes the memory. Mapped BARs are in `kvm/device_mapping.rs`.

pub mod ram;
pub mod layout;
