//! Function 00:00.0, the host bridge: an identity without registers.
//!
//! The chip set's real registers (ECAM base, SMRAM) are not modelled: ACPI describes the windows.

use super::bar::BarRequest;
use super::config_space::ConfigSpace;
use super::function::{IntxRoute, PciFunction};

/// Vendor Red Hat, device "QEMU PCIe host bridge": a generic bridge that no guest has quirks for.
const IDENTITY: [u8; 4] = [0x36, 0x1b, 0x08, 0x00];
/// Class 06 (bridge), subclass 00 (host).
const CLASS: [u8; 3] = [0x00, 0x00, 0x06];

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    space: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl HostBridge {
    /// Ready to plug into slot 0.
    pub fn new() -> Self {
        let mut space = ConfigSpace::new();
        space.set(0x00, &IDENTITY);
        space.set(0x09, &CLASS);
        Self { space }
    }
}

impl PciFunction for HostBridge {
    fn id(&self) -> &'static str {
        "host bridge"
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.space.read(offset, data);
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn bars(&self) -> Vec<BarRequest> {
        Vec::new()
    }

    fn placed(&self, _route: IntxRoute) {}

    fn reset(&self) {}

    fn finish_reset(&self) {}
}
