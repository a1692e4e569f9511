//! What a virtual machine is made of, and how its chips are put back to their first state.
//!
//! In-kernel PIC, IOAPIC, local APICs and PIT; memory slots and interrupt routing are reached from here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_cpuid_entry2, kvm_irqchip, kvm_pit_config,
    kvm_pit_state2,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::error::{KvmError, call};
use super::handles;
use super::irq_routing::IrqRouting;
use super::memory_slots::MemorySlots;
use super::vcpu::{Vcpu, power_on_msrs};
use crate::memory::layout;

const NEEDED: [(Cap, &str); 5] = [
    (
        Cap::Irqchip,
        "it has no in-kernel interrupt controller (KVM_CAP_IRQCHIP)",
    ),
    (
        Cap::UserMemory,
        "it has no user memory regions (KVM_CAP_USER_MEMORY)",
    ),
    (Cap::Irqfd, "it has no irqfds (KVM_CAP_IRQFD)"),
    (
        Cap::IrqfdResample,
        "it has no resampled irqfds (KVM_CAP_IRQFD_RESAMPLE)",
    ),
    (
        Cap::IrqRouting,
        "it has no interrupt routing (KVM_CAP_IRQ_ROUTING)",
    ),
];

/// A virtual machine without vCPUs, RAM or devices yet.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    slots: MemorySlots,
    irq: IrqRouting,
    power_on: Chips,
}

/// The state of the chips that all vCPUs share.
#[derive(Debug)]
struct Chips {
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

impl Vm {
    /// Makes a virtual machine from an open `/dev/kvm`.
    pub fn new(kvm: OwnedFd) -> Result<Arc<Vm>, KvmError> {
        let kvm = handles::kvm(kvm);
        if u32::try_from(kvm.get_api_version()).ok() != Some(KVM_API_VERSION) {
            return Err(KvmError::Unsupported(
                "it does not answer as KVM does; is it the right file?",
            ));
        }
        if let Some((_, reason)) = NEEDED
            .into_iter()
            .find(|(cap, _)| !kvm.check_extension(*cap))
        {
            return Err(KvmError::Unsupported(reason));
        }
        let fd = Arc::new(create_vm(&kvm)?);
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP_START)
            .map_err(call("Place KVM's identity map"))?;
        let tss = usize::try_from(layout::KVM_TSS_START)
            .map_err(|_| KvmError::Unsupported("it is not 64-bit"))?;
        fd.set_tss_address(tss)
            .map_err(call("Place KVM's task state segment"))?;
        fd.create_irq_chip()
            .map_err(call("Create the interrupt controllers"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit).map_err(call("Create the timer"))?;
        let slots = MemorySlots::new(Arc::clone(&fd), kvm.get_nr_memslots());
        let irq = IrqRouting::new(Arc::clone(&fd))?;
        let power_on = Chips::read(&fd)?;
        Ok(Arc::new(Vm {
            kvm,
            fd,
            slots,
            irq,
            power_on,
        }))
    }

    /// What the guest reaches without an exit.
    pub fn memory_slots(&self) -> &MemorySlots {
        &self.slots
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Which interrupt goes where.
    pub fn irq(&self) -> &IrqRouting {
        &self.irq
    }

    /// What this host's CPU and KVM can give to a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("Ask KVM what CPU it can give to a guest"))
    }

    /// Most vCPUs that KVM takes.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Makes `count` vCPUs; `cpuid` says what each of them is, by its number.
    pub fn create_vcpus(
        &self,
        count: u8,
        cpuid: impl Fn(u8) -> Vec<kvm_cpuid_entry2>,
    ) -> Result<Vec<Vcpu>, KvmError> {
        let mut made = Vec::new();
        for id in 0..count {
            let fd = self
                .fd
                .create_vcpu(u64::from(id))
                .map_err(call("Create a vCPU"))?;
            let cpuid = CpuId::from_entries(&cpuid(id)).map_err(|_| {
                KvmError::Unsupported("it reports more CPUID leaves than one call takes")
            })?;
            fd.set_cpuid2(&cpuid)
                .map_err(call("Set the CPUID of a vCPU"))?;
            made.push(fd);
        }
        let Some(first) = made.first() else {
            return Ok(Vec::new());
        };
        let msrs = power_on_msrs(&self.kvm, first)?;
        made.into_iter()
            .zip(0..)
            .map(|(fd, id)| Vcpu::new(id, fd, Arc::clone(&msrs)))
            .collect()
    }

    /// Puts interrupt controllers and timer back to their state after power-on. Only while all vCPUs are stopped.
    pub fn reset_chips(&self) -> Result<(), KvmError> {
        for chip in &self.power_on.irqchips {
            self.fd
                .set_irqchip(chip)
                .map_err(call("Reset the interrupt controllers"))?;
        }
        self.fd
            .set_pit2(&self.power_on.pit)
            .map_err(call("Reset the timer"))
    }
}

impl Chips {
    fn read(fd: &VmFd) -> Result<Chips, KvmError> {
        let mut irqchips = Vec::new();
        for chip_id in [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ] {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            fd.get_irqchip(&mut chip)
                .map_err(call("Read the interrupt controllers"))?;
            irqchips.push(chip);
        }
        Ok(Chips {
            irqchips,
            pit: fd.get_pit2().map_err(call("Read the timer"))?,
        })
    }
}

/// KVM_CREATE_VM is interrupted by any signal.
fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.create_vm() {
            Err(errno) if errno.errno() == libc::EINTR => {}
            result => return result.map_err(call("Create a virtual machine")),
        }
    }
}
