//! How a slot's interrupts reach the guest, and what it decides the worker.
//!
//! Called on vCPUs' threads: two system calls that do not wait, and a channel.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::worker::Job;
use crate::kvm::{Gsi, MsiMessage, Vm};
use crate::pci::SlotServices;
use crate::pci::slot::Action;

/// What [`SlotServices`] needs.
pub(super) struct Slots {
    pub(super) vm: Arc<Vm>,
    pub(super) jobs: Sender<Job>,
}

impl SlotServices for Slots {
    fn send_msi(&self, address: u64, data: u32) {
        if let Err(error) = self.vm.irq().signal_msi(MsiMessage { address, data }) {
            tracing::warn!(error = %error, "hot-plug interrupt not sent");
        }
    }

    fn set_line(&self, gsi: u32, level: bool) {
        if let Err(error) = self.vm.irq().set_line(Gsi(gsi), level) {
            tracing::warn!(error = %error, gsi, "hot-plug interrupt not set");
        }
    }

    fn carry_out(&self, port: &str, action: Action) {
        let port = port.to_owned();
        // The worker lives as long as the machine.
        let _taken = self.jobs.send(Job::Slot { port, action });
    }
}
