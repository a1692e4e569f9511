//! Interrupt routing: a GSI is a pin of the interrupt chips or one MSI message; an eventfd can be tied to it (irqfd),
//! so that an interrupt reaches the guest without this process running.
//!
//! GSI 0 to 23 are the pins of the IOAPIC, one to one; 0 to 15 also reach the two PICs. From 24 on each GSI is an MSI
//! message, allocated here.
//!
//! Limits: [`MAX_ROUTES`] GSIs, KVM's own limit.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;

use super::error::{KvmError, call, io_error};
use super::handles::EventFdView;

#[cfg(test)]
mod tests;

/// Pins of the IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// Pins of the two PICs together.
const PIC_PINS: u32 = 16;
/// Most entries of the routing table (KVM API §4.52, KVM_CAP_IRQ_ROUTING on x86).
pub const MAX_ROUTES: u32 = 4096;

/// A global system interrupt: an input of the guest's interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(pub u32);

/// What a device writes to raise a message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

impl MsiMessage {
    /// Whether it is an interrupt: to any other address it is a write like others (Intel SDM vol. 3, "Message Address Register Format").
    /// KVM delivers it wherever it goes.
    pub fn is_interrupt(self) -> bool {
        self.address & !0xf_ffff == 0xfee0_0000
    }
}

/// The routing table of one VM.
#[derive(Debug)]
pub struct IrqRouting {
    vm: Arc<VmFd>,
    /// MSI routes; `None` is allocated and not yet set.
    messages: Mutex<BTreeMap<Gsi, Option<MsiMessage>>>,
}

impl IrqRouting {
    pub(super) fn new(vm: Arc<VmFd>) -> Result<IrqRouting, KvmError> {
        let routing = IrqRouting {
            vm,
            messages: Mutex::new(BTreeMap::new()),
        };
        routing.apply(&BTreeMap::new())?;
        Ok(routing)
    }

    /// A new GSI for one MSI message. It goes nowhere until [`Self::set_msi`].
    pub fn allocate(&self) -> Result<Gsi, KvmError> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        // Keys are ascending, so the first GSI that is not where it would be in a full table is free.
        let free = messages
            .keys()
            .zip(IOAPIC_PINS..)
            .find_map(|(used, wanted)| (used.0 != wanted).then_some(wanted));
        let next =
            u32::try_from(messages.len()).map_or(MAX_ROUTES, |len| IOAPIC_PINS.saturating_add(len));
        let gsi = Gsi(free.unwrap_or(next));
        if gsi.0 >= MAX_ROUTES {
            return Err(KvmError::NoGsi {
                limit: MAX_ROUTES - IOAPIC_PINS,
            });
        }
        messages.insert(gsi, None);
        Ok(gsi)
    }

    /// Sets what an allocated GSI sends.
    pub fn set_msi(&self, gsi: Gsi, message: MsiMessage) -> Result<(), KvmError> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = messages.get_mut(&gsi).ok_or(KvmError::UnknownGsi(gsi.0))?;
        if *entry == Some(message) {
            return Ok(());
        }
        let before = entry.replace(message);
        let applied = self.apply(&messages);
        if applied.is_err() {
            messages.insert(gsi, before);
        }
        applied
    }

    /// Gives an allocated GSI back. Detach its eventfd first.
    pub fn release(&self, gsi: Gsi) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.remove(&gsi).flatten().is_some()
            && let Err(error) = self.apply(&messages)
        {
            // A smaller table cannot fail for its content; the stale route has no eventfd and does no harm.
            tracing::warn!(gsi = gsi.0, error = %error, "route not removed");
        }
    }

    /// How many GSIs are allocated.
    pub fn count(&self) -> usize {
        self.messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Lets `trigger` raise `gsi`: an edge for a pin, a message for an MSI route.
    pub fn attach(&self, trigger: BorrowedFd<'_>, gsi: Gsi) -> Result<(), KvmError> {
        let failed = |source| KvmError::Irqfd {
            step: "Attach an eventfd to",
            gsi: gsi.0,
            source,
        };
        self.vm
            .register_irqfd(EventFdView::new(trigger).event(), gsi.0)
            .map_err(|errno| failed(io_error(errno)))
    }

    /// Lets `trigger` raise the level-triggered pin `gsi`. When the guest ends the interrupt, KVM lowers the pin and
    /// signals `resample`.
    pub fn attach_resample(
        &self,
        trigger: BorrowedFd<'_>,
        resample: BorrowedFd<'_>,
        gsi: Gsi,
    ) -> Result<(), KvmError> {
        let failed = |source| KvmError::Irqfd {
            step: "Attach a resampled eventfd to",
            gsi: gsi.0,
            source,
        };
        let (trigger, resample) = (EventFdView::new(trigger), EventFdView::new(resample));
        self.vm
            .register_irqfd_with_resample(trigger.event(), resample.event(), gsi.0)
            .map_err(|errno| failed(io_error(errno)))
    }

    /// Undoes [`Self::attach`] or [`Self::attach_resample`].
    pub fn detach(&self, trigger: BorrowedFd<'_>, gsi: Gsi) -> Result<(), KvmError> {
        let failed = |source| KvmError::Irqfd {
            step: "Detach an eventfd from",
            gsi: gsi.0,
            source,
        };
        self.vm
            .unregister_irqfd(EventFdView::new(trigger).event(), gsi.0)
            .map_err(|errno| failed(io_error(errno)))
    }

    /// Sends one message from this process, without a route. One that is no interrupt goes nowhere.
    pub fn signal_msi(&self, message: MsiMessage) -> Result<(), KvmError> {
        if !message.is_interrupt() {
            return Ok(());
        }
        let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
        let msi = kvm_msi {
            address_lo: u32::from_le_bytes([a, b, c, d]),
            address_hi: u32::from_le_bytes([e, f, g, h]),
            data: message.data,
            ..Default::default()
        };
        // What it returns says whether a CPU took the message; a guest that blocks it has its reasons.
        self.vm
            .signal_msi(msi)
            .map(drop)
            .map_err(call("Send a message-signalled interrupt"))
    }

    /// Raises or lowers a pin from this process.
    pub fn set_line(&self, gsi: Gsi, level: bool) -> Result<(), KvmError> {
        self.vm
            .set_irq_line(gsi.0, level)
            .map_err(call("Set an interrupt line"))
    }

    fn apply(&self, messages: &BTreeMap<Gsi, Option<MsiMessage>>) -> Result<(), KvmError> {
        let mut entries = pins();
        entries.extend(
            messages
                .iter()
                .filter_map(|(gsi, message)| message.map(|message| msi_entry(*gsi, message))),
        );
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| KvmError::NoGsi {
            limit: MAX_ROUTES - IOAPIC_PINS,
        })?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(call("Set the interrupt routing table"))
    }
}

fn pins() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for pin in 0..IOAPIC_PINS {
        if pin < PIC_PINS {
            let (chip, first) = if pin < 8 {
                (KVM_IRQCHIP_PIC_MASTER, 0)
            } else {
                (KVM_IRQCHIP_PIC_SLAVE, 8)
            };
            entries.push(chip_entry(Gsi(pin), chip, pin - first));
        }
        entries.push(chip_entry(Gsi(pin), KVM_IRQCHIP_IOAPIC, pin));
    }
    entries
}

fn chip_entry(gsi: Gsi, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi_entry(gsi: Gsi, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a, b, c, d]),
        address_hi: u32::from_le_bytes([e, f, g, h]),
        data: message.data,
        ..Default::default()
    };
    entry
}
