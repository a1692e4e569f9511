//! The interrupt pin, wired from the device server to KVM with level semantics.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_SET_IRQS"; kernel-vfio-facts.md section 3.
//! The server signals the trigger eventfd and masks the pin; KVM raises the input. When the guest ends the interrupt, KVM
//! lowers the input and signals the resample eventfd, which the server has as its unmask eventfd. No process of ours
//! runs in between.

use std::os::fd::{AsFd, OwnedFd};

use protocol::client::{Client, ClientError};
use protocol::{IrqAction, IrqIndex, IrqInfo, IrqInfoFlags};

use super::vectors::{VectorError, new_eventfd};
use crate::kvm::{Gsi, Vm};

/// A pin that is wired.
#[derive(Debug)]
pub struct Intx {
    trigger: OwnedFd,
    resample: OwnedFd,
    gsi: Gsi,
}

impl Intx {
    /// Wires the pin to `gsi`.
    pub fn start(client: &Client, vm: &Vm, irq: &IrqInfo, gsi: Gsi) -> Result<Intx, VectorError> {
        let trigger = new_eventfd().map_err(VectorError::Eventfd)?;
        let resample = new_eventfd().map_err(VectorError::Eventfd)?;
        vm.irq()
            .attach_resample(trigger.as_fd(), resample.as_fd(), gsi)
            .map_err(VectorError::Route)?;
        let intx = Intx {
            trigger,
            resample,
            gsi,
        };
        if let Err(error) = intx.bind(client, irq) {
            // The first error is the one to report.
            let _stopped = intx.stop(client, vm);
            return Err(VectorError::Bind(error));
        }
        Ok(intx)
    }

    /// Unwires the pin, at the server first; KVM lowers the input.
    pub fn stop(&self, client: &Client, vm: &Vm) -> Result<(), ClientError> {
        let result = client.disable_irqs(IrqIndex::INTX);
        // It was attached by us; a failure leaves an input that nobody raises any more.
        let _detached = vm.irq().detach(self.trigger.as_fd(), self.gsi);
        result
    }

    fn bind(&self, client: &Client, irq: &IrqInfo) -> Result<(), ClientError> {
        client.set_irqs_eventfds(
            IrqIndex::INTX,
            0,
            IrqAction::Trigger,
            &[self.trigger.as_fd()],
        )?;
        if irq.flags.contains(IrqInfoFlags::AUTOMASKED) {
            client.set_irqs_eventfds(
                IrqIndex::INTX,
                0,
                IrqAction::Unmask,
                &[self.resample.as_fd()],
            )?;
        }
        Ok(())
    }
}
