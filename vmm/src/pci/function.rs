//! What the PCI host needs of a function, whoever implements it.
//!
//! The host splits guest accesses into naturally aligned pieces of 1, 2 or 4 bytes before it calls, and calls without
//! any lock of its own, so an implementation may take as long as a vfio-user round trip.

use super::bar::BarRequest;

/// Where the four interrupt pins of a function arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntxRoute {
    /// The interrupt controller input of INTA to INTD.
    pub gsi: [u32; 4],
}

/// One function in the guest's PCI topology.
pub trait PciFunction: Send + Sync {
    /// The device id of the command line.
    fn id(&self) -> &str;
    /// A guest read of configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]);
    /// A guest write of configuration space.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// The decoders that firmware must place.
    fn bars(&self) -> Vec<BarRequest>;
    /// The function was given a place; called once, before the first access.
    fn placed(&self, route: IntxRoute);
    /// Back to the state after power-on: the guest was reset, or the bus above the function. Called on a vCPU's thread,
    /// too: a device that takes its time is not waited for, and looks absent meanwhile.
    fn reset(&self);
    /// Waits until the function can be used after [`Self::reset`]. Never called on a vCPU's thread.
    fn finish_reset(&self);
}
