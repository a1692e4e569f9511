//! How a device is lost to the guest: its server is gone or has broken the rules, or the device itself failed.
//!
//! Its BARs leave the guest at once, reads give ones, writes are dropped. Whoever has the device then calls `detach`.

use std::sync::atomic::Ordering;

use protocol::client::LostCause;
use telemetry::security::Event;

use super::{VfioUserFunction, lock};
use crate::one_line::one_line;

impl VfioUserFunction {
    /// Why the device is lost, if it is.
    pub fn lost(&self) -> Option<LostCause> {
        self.client.lost()
    }

    /// The device had an error: from now on it is lost to the guest.
    pub fn fail(&self) {
        if !self.is_lost.swap(true, Ordering::AcqRel) {
            self.leave_guest();
        }
    }

    /// Call without any lock held.
    pub(super) fn notice_loss(&self) {
        let Some(cause) = self.client.lost() else {
            return;
        };
        if self.is_lost.swap(true, Ordering::AcqRel) {
            return;
        }
        let device = Some((self.id.as_str(), self.pci.as_str()));
        let message = "device lost: reads give ones, writes are dropped";
        Event::DeviceLost.report(device, "device server", &one_line(&cause), message);
        self.leave_guest();
        lock(&self.interrupts).stop();
    }

    /// The mappings go with `detach`: the last one resets the device, and whoever noticed must not wait for that.
    fn leave_guest(&self) {
        lock(&self.bars).retain(&[]);
    }
}
