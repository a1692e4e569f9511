//! Guest RAM and the guest's address map.
//!
//! `layout` says where things are, `ram` makes the memory (`huge_pages` its mapping), `boot_file` is what it is loaded from. Mapped BARs are in
//! `kvm/device_mapping.rs`.

pub mod boot_file;
mod huge_pages;
pub mod ram;
pub mod layout;
