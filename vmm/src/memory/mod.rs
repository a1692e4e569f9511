//! Guest RAM and the guest's address map.
//!
//! `layout` says where things are, `ram` makes the memory, `boot_file` is what it is loaded from. Mapped BARs are in
//! `kvm/device_mapping.rs`.

pub mod boot_file;
pub mod ram;
pub mod layout;
