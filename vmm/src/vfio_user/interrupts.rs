//! Which kind of interrupt a device uses now, and the change from one kind to another.
//!
//! The old kind is always turned off before the new one is turned on: servers may keep one set of eventfds for all
//! kinds, and VFIO allows one kind at a time.
//! A kind that cannot be wired is logged once and stays silent; the guest's driver sees a device without interrupts.

use std::sync::Arc;

use protocol::client::Client;
use tracing::Span;

use super::config::InterruptMode;
use super::describe::Irqs;
use super::intx::Intx;
use super::msi::MsiState;
use super::msix::MsixTable;
use super::notices::Notices;
use super::vectors::Vectors;
use crate::kvm::{Gsi, Vm};

const NOT_WIRED: &str = "an interrupt vector is not wired";

/// The interrupts of one device.
#[derive(Debug)]
pub struct Interrupts {
    notices: Notices,
    client: Arc<Client>,
    vm: Arc<Vm>,
    irqs: Irqs,
    pin: Option<Gsi>,
    active: Active,
}

#[derive(Debug)]
enum Active {
    Off,
    /// `None`: the pin could not be wired.
    Intx(Option<Intx>),
    Msi(Vectors),
    Msix(Vectors),
}

impl Interrupts {
    /// All off.
    pub fn new(span: Span, client: Arc<Client>, vm: Arc<Vm>, irqs: Irqs) -> Self {
        Self {
            notices: Notices::new(span),
            client,
            vm,
            irqs,
            pin: None,
            active: Active::Off,
        }
    }

    /// Tells where the device's pin arrives.
    pub fn place_pin(&mut self, gsi: Gsi) {
        self.pin = Some(gsi);
    }

    /// Makes the wiring what the registers say.
    pub fn sync(&mut self, mode: &InterruptMode, table: Option<&MsixTable>) {
        let same = matches!(
            (&self.active, mode),
            (Active::Off, InterruptMode::Off)
                | (Active::Intx(_), InterruptMode::Intx)
                | (Active::Msi(_), InterruptMode::Msi(_))
                | (Active::Msix(_), InterruptMode::Msix { .. })
        );
        if !same {
            self.stop();
            self.start(mode);
        }
        match mode {
            InterruptMode::Off | InterruptMode::Intx => {}
            InterruptMode::Msi(state) => self.sync_msi(state),
            InterruptMode::Msix { mask_all } => {
                if let Some(table) = table {
                    self.sync_msix(0..table.vectors(), *mask_all, table);
                }
            }
        }
    }

    /// Makes the wiring of some MSI-X vectors what the table says.
    pub fn sync_msix(&mut self, touched: std::ops::Range<u32>, mask_all: bool, table: &MsixTable) {
        let Active::Msix(vectors) = &mut self.active else {
            return;
        };
        let expected = table.programmed();
        for vector in touched {
            let Some(entry) = table.entry(vector) else {
                continue;
            };
            let masked = entry.masked || mask_all;
            if let Err(error) = vectors.set(vector, entry.message, masked, expected) {
                self.notices.failed_at(NOT_WIRED, Some(vector), &error);
            }
        }
    }

    /// True if `vector` waits for its mask to go.
    pub fn pending(&self, vector: u32) -> bool {
        match &self.active {
            Active::Off | Active::Intx(_) => false,
            Active::Msi(vectors) | Active::Msix(vectors) => vectors.pending(vector),
        }
    }

    /// How many interrupts are wired.
    pub fn wired(&self) -> u64 {
        match &self.active {
            Active::Off | Active::Intx(None) => 0,
            Active::Intx(Some(_)) => 1,
            Active::Msi(vectors) | Active::Msix(vectors) => vectors.wired(),
        }
    }

    /// Turns the active kind off.
    pub fn stop(&mut self) {
        let result = match std::mem::replace(&mut self.active, Active::Off) {
            Active::Off | Active::Intx(None) => Ok(()),
            Active::Intx(Some(intx)) => intx.stop(&self.client, &self.vm),
            Active::Msi(mut vectors) | Active::Msix(mut vectors) => vectors.release(),
        };
        if let Err(error) = result
            && self.client.lost().is_none()
        {
            let what = "interrupts not disabled at the device server";
            self.notices.failed(what, &error);
        }
    }

    fn start(&mut self, mode: &InterruptMode) {
        let vectors = |irq| Vectors::new(Arc::clone(&self.client), Arc::clone(&self.vm), irq);
        self.active = match mode {
            InterruptMode::Off => Active::Off,
            InterruptMode::Intx => Active::Intx(self.start_pin()),
            InterruptMode::Msi(_) => Active::Msi(vectors(self.irqs.msi)),
            InterruptMode::Msix { .. } => Active::Msix(vectors(self.irqs.msix)),
        };
    }

    fn start_pin(&self) -> Option<Intx> {
        match Intx::start(&self.client, &self.vm, &self.irqs.intx, self.pin?) {
            Ok(intx) => Some(intx),
            Err(error) => {
                self.notices
                    .failed("the interrupt pin is not wired", &error);
                None
            }
        }
    }

    fn sync_msi(&mut self, state: &MsiState) {
        let Active::Msi(vectors) = &mut self.active else {
            return;
        };
        let expected = u32::try_from(state.messages.len()).unwrap_or(u32::MAX);
        for (vector, message) in (0..).zip(&state.messages) {
            let masked = state.masked >> vector & 1 != 0;
            if let Err(error) = vectors.set(vector, *message, masked, expected) {
                self.notices.failed_at(NOT_WIRED, Some(vector), &error);
            }
        }
    }
}
