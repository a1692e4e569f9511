//! One vCPU: what it is set to before it runs, and how it is put back to that.
//!
//! A reset restores what a CPU has after power-on: registers, control and segment registers, FPU, debug registers, local
//! APIC, pending events and all MSRs that KVM lists, kvmclock's and the asynchronous page fault's among them (left
//! alone, KVM would go on writing to memory of the guest that is gone). The time stamp counter runs on.

use std::sync::Arc;

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_debugregs, kvm_dtable, kvm_fpu,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd};

use super::error::{KvmError, call};

/// IA32_TIME_STAMP_COUNTER and IA32_TSC_ADJUST: time goes on over a reset.
const MSRS_KEPT: [u32; 2] = [0x10, 0x3b];
/// IA32_MTRR_DEF_TYPE: MTRRs on, write-back by default. Without firmware nobody else says that RAM is cacheable.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 0x806);
/// IA32_MISC_ENABLE, fast string operations.
const MISC_ENABLE_FAST_STRING: (u32, u64) = (0x1a0, 1);

/// How the first vCPU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuState {
    /// 64-bit mode with the page tables at `page_tables` and the GDT at `gdt` (the Linux 64-bit boot protocol).
    LongMode {
        /// First instruction.
        rip: u64,
        /// Address of the zero page.
        rsi: u64,
        /// Address of the top-level page table.
        page_tables: u64,
        /// Address of the segment descriptor table of [`LONG_MODE_GDT`].
        gdt: u64,
    },
    /// 32-bit protected mode, flat segments, no paging (the PVH boot protocol).
    Protected {
        /// First instruction.
        rip: u64,
        /// Address of the start info.
        rbx: u64,
        /// Address of the segment descriptor table of [`PROTECTED_GDT`].
        gdt: u64,
    },
}

/// Null, unused, code (0x10), data (0x18): 64-bit code.
pub const LONG_MODE_GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Null, unused, code (0x10), data (0x18): 32-bit code.
pub const PROTECTED_GDT: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The one flag that is always set.
const RFLAGS_RESERVED: u64 = 2;

/// One vCPU with its state after power-on.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) id: u8,
    pub(super) fd: VcpuFd,
    power_on: PowerOn,
}

/// Everything that a reset restores.
#[derive(Debug)]
struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    msrs: Arc<Vec<kvm_msr_entry>>,
}

impl Vcpu {
    /// Takes a fresh vCPU that has its CPUID, and remembers its state. `msrs` is what [`power_on_msrs`] returned.
    pub(super) fn new(id: u8, fd: VcpuFd, msrs: Arc<Vec<kvm_msr_entry>>) -> Result<Vcpu, KvmError> {
        let power_on = PowerOn {
            regs: fd
                .get_regs()
                .map_err(call("Read the registers of a vCPU"))?,
            sregs: fd
                .get_sregs()
                .map_err(call("Read the system registers of a vCPU"))?,
            fpu: fd.get_fpu().map_err(call("Read the FPU of a vCPU"))?,
            // Absent on a CPU without XSAVE.
            xcrs: fd.get_xcrs().ok(),
            debug: fd
                .get_debug_regs()
                .map_err(call("Read the debug registers of a vCPU"))?,
            lapic: fd
                .get_lapic()
                .map_err(call("Read the local APIC of a vCPU"))?,
            events: fd
                .get_vcpu_events()
                .map_err(call("Read the events of a vCPU"))?,
            msrs,
        };
        Ok(Vcpu { id, fd, power_on })
    }

    /// Puts the vCPU back to its state after power-on: the first one ready to run, the others waiting to be started.
    pub fn reset(&mut self) -> Result<(), KvmError> {
        let state = &self.power_on;
        self.fd
            .set_regs(&state.regs)
            .map_err(call("Reset the registers of a vCPU"))?;
        self.fd
            .set_sregs(&state.sregs)
            .map_err(call("Reset the system registers of a vCPU"))?;
        self.fd
            .set_fpu(&state.fpu)
            .map_err(call("Reset the FPU of a vCPU"))?;
        if let Some(xcrs) = &state.xcrs {
            self.fd
                .set_xcrs(xcrs)
                .map_err(call("Reset the extended control registers of a vCPU"))?;
        }
        self.fd
            .set_debug_regs(&state.debug)
            .map_err(call("Reset the debug registers of a vCPU"))?;
        self.fd
            .set_lapic(&state.lapic)
            .map_err(call("Reset the local APIC of a vCPU"))?;
        write_msrs(&self.fd, &state.msrs)?;
        self.fd
            .set_vcpu_events(&state.events)
            .map_err(call("Reset the events of a vCPU"))?;
        let mp_state = if self.id == 0 {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_UNINITIALIZED
        };
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(call("Reset the run state of a vCPU"))
    }

    /// Prepares the first vCPU to enter a kernel.
    pub fn enter_at(&mut self, entry: CpuState) -> Result<(), KvmError> {
        let mut sregs = self.power_on.sregs;
        let mut regs = kvm_regs {
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        };
        let gdt = match entry {
            CpuState::LongMode {
                rip,
                rsi,
                page_tables,
                gdt,
            } => {
                (regs.rip, regs.rsi) = (rip, rsi);
                sregs.cs = segment(CODE_SELECTOR, CodeOrData::Code64);
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = page_tables;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                gdt
            }
            CpuState::Protected { rip, rbx, gdt } => {
                (regs.rip, regs.rbx) = (rip, rbx);
                sregs.cs = segment(CODE_SELECTOR, CodeOrData::Code32);
                sregs.cr0 = CR0_PE | CR0_ET;
                gdt
            }
        };
        sregs.gdt = kvm_dtable {
            base: gdt,
            limit: 31,
            padding: [0; 3],
        };
        sregs.idt = kvm_dtable::default();
        let data = segment(DATA_SELECTOR, CodeOrData::Data);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        self.fd
            .set_sregs(&sregs)
            .map_err(call("Set the system registers of a vCPU"))?;
        self.fd
            .set_regs(&regs)
            .map_err(call("Set the registers of a vCPU"))
    }
}

/// The MSRs of a fresh vCPU, with the two that firmware would set.
pub(super) fn power_on_msrs(
    kvm: &Kvm,
    first: &VcpuFd,
) -> Result<Arc<Vec<kvm_msr_entry>>, KvmError> {
    let list = kvm
        .get_msr_index_list()
        .map_err(call("List the MSRs that KVM saves"))?;
    let wanted: Vec<_> = list
        .as_slice()
        .iter()
        .filter(|index| !MSRS_KEPT.contains(index))
        .map(|&index| kvm_msr_entry {
            index,
            ..Default::default()
        })
        .collect();
    let mut msrs = read_msrs(first, &wanted)?;
    for (index, data) in [MTRR_DEF_TYPE, MISC_ENABLE_FAST_STRING] {
        msrs.retain(|msr| msr.index != index);
        msrs.push(kvm_msr_entry {
            index,
            data,
            ..Default::default()
        });
    }
    Ok(Arc::new(msrs))
}

/// Reads in batches: KVM stops at the first MSR that this CPU does not have, which is then left out.
fn read_msrs(vcpu: &VcpuFd, wanted: &[kvm_msr_entry]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut found = Vec::new();
    let mut rest = wanted;
    while !rest.is_empty() {
        let mut batch = batch(rest)?;
        let done = vcpu
            .get_msrs(&mut batch)
            .map_err(call("Read the MSRs of a vCPU"))?;
        found.extend(batch.as_slice().iter().take(done));
        rest = rest.get(done.saturating_add(1)..).unwrap_or_default();
    }
    Ok(found)
}

/// Writes in batches, and passes over what cannot be written (read-only and feature MSRs).
fn write_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), KvmError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let done = vcpu
            .set_msrs(&batch(rest)?)
            .map_err(call("Set the MSRs of a vCPU"))?;
        rest = rest.get(done.saturating_add(1)..).unwrap_or_default();
    }
    Ok(())
}

fn batch(msrs: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(msrs)
        .map_err(|_| KvmError::Unsupported("it lists more MSRs than one call takes"))
}

enum CodeOrData {
    Code64,
    Code32,
    Data,
}

/// A flat segment over the whole address space.
fn segment(selector: u16, kind: CodeOrData) -> kvm_segment {
    let (type_, db, l) = match kind {
        CodeOrData::Code64 => (0xb, 0, 1),
        CodeOrData::Code32 => (0xb, 1, 0),
        CodeOrData::Data => (0x3, 1, 0),
    };
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    }
}
