//! Our programs with vfio-user peers that we did not write: the `vfio_user` crate's Client and Server, which
//! Cloud Hypervisor ships, and QEMU's vfio-user-pci client with a Linux guest.
//!
//! What a peer does wrong is asserted as such: a test then names the row of conformance.md, part C, or the pitfall of
//! section 12 of vfio-user-facts.md.

mod peer;
mod crate_client;
mod crate_server;
mod qemu;
