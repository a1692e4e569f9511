//! Between the guest and a passed device: notices when the guest turns it on, and counts how long its accesses of the
//! configuration space take. Turned on is a device by the first write, since it was plugged or reset, that lets it decode
//! memory or become bus master.
//!
//! Spec: PCI Local Bus 3.0 §6.2.2 (Command). Linux sizes BARs with both off, so this is the driver's doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use super::table::DeviceKey;
use super::worker::Job;

use crate::pci::{BarRequest, IntxRoute, PciFunction};
use crate::vfio_user::VfioUserFunction;

const COMMAND: u16 = 0x04;
const MEMORY_OR_MASTER: u8 = 1 << 1 | 1 << 2;

/// A function whose being turned on is told: once, and once again after each reset.
pub(super) struct Watched {
    device: DeviceKey,
    function: Arc<VfioUserFunction>,
    is_on: AtomicBool,
    jobs: Sender<Job>,
}

impl Watched {
    /// The worker is told of each time.
    pub(super) fn new(
        device: &DeviceKey,
        function: Arc<VfioUserFunction>,
        jobs: Sender<Job>,
    ) -> Arc<Watched> {
        Arc::new(Watched {
            device: device.clone(),
            function,
            is_on: AtomicBool::new(false),
            jobs,
        })
    }
}

impl PciFunction for Watched {
    fn id(&self) -> &str {
        self.function.id()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.function
            .timed(|| self.function.config_read(offset, data));
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function
            .timed(|| self.function.config_write(offset, data));
        if turns_on(offset, data) && !self.is_on.swap(true, Ordering::AcqRel) {
            let _taken = self.jobs.send(Job::Ready(self.device.clone()));
        }
    }

    fn bars(&self) -> Vec<BarRequest> {
        self.function.bars()
    }

    fn placed(&self, route: IntxRoute) {
        self.function.placed(route);
    }

    fn reset(&self) {
        self.function.reset();
        // The next guest turns it on anew.
        self.is_on.store(false, Ordering::Release);
    }

    fn finish_reset(&self) {
        self.function.finish_reset();
    }
}

fn turns_on(offset: u16, data: &[u8]) -> bool {
    let index = COMMAND.checked_sub(offset).map(usize::from);
    index
        .and_then(|index| data.get(index))
        .is_some_and(|low| low & MEMORY_OR_MASTER != 0)
}

#[cfg(test)]
mod tests {
    use super::turns_on;

    #[test]
    fn only_memory_and_master_bits_of_the_command_register_turn_on() {
        assert!(turns_on(4, &[2, 0]));
        assert!(turns_on(4, &[4]));
        assert!(turns_on(0, &[0, 0, 0, 0, 6, 0]));
        assert!(!turns_on(4, &[1, 4]));
        assert!(!turns_on(5, &[6]));
        assert!(!turns_on(6, &[0xff, 0xff]));
        assert!(!turns_on(0, &[0xff; 4]));
    }
}
