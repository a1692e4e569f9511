//! Notices when the guest turns a plugged device on: the first write that lets it decode memory or become bus master.
//!
//! Spec: PCI Local Bus 3.0 §6.2.2 (Command). Linux sizes BARs with both off, so this is the driver's doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::pci::{BarRequest, IntxRoute, PciFunction};
use crate::vfio_user::VfioUserFunction;

const COMMAND: u16 = 0x04;
const MEMORY_OR_MASTER: u8 = 1 << 1 | 1 << 2;

/// A function that calls once when it is turned on.
pub(super) struct Watched {
    function: Arc<VfioUserFunction>,
    is_on: AtomicBool,
    on: Box<dyn Fn() + Send + Sync>,
}

impl Watched {
    /// `on` is called on a vCPU's thread: it must not block.
    pub(super) fn new(
        function: Arc<VfioUserFunction>,
        on: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Watched> {
        Arc::new(Watched {
            function,
            is_on: AtomicBool::new(false),
            on,
        })
    }
}

impl PciFunction for Watched {
    fn id(&self) -> &str {
        self.function.id()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.function.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function.config_write(offset, data);
        if turns_on(offset, data) && !self.is_on.swap(true, Ordering::AcqRel) {
            (self.on)();
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
