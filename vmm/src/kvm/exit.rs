//! What happens when a vCPU leaves the guest.
//!
//! Ports and memory that trap go to the [`AddressSpaces`]; everything else that KVM may report is either "go on" or
//! the end of the machine, named with the register state.
//!
//! A fault on a mapped BAR (the device is gone, see `device_mapping.rs`) shows up in two ways, and both are handled: as
//! an ordinary memory exit, which the trap under the mapping answers, or as a failed KVM_RUN, for which the
//! [`MemoryFaultHandler`] is asked to take the mapping away.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::error::io_error;
use super::handles::RunPage;
use crate::address_space::{AddressSpace, AddressSpaces};

/// Asked when KVM cannot reach memory behind a slot.
pub trait MemoryFaultHandler: Send + Sync {
    /// Takes away mappings of devices that are lost; `gpa` is known only to newer kernels. True if something was
    /// taken away, so that the access can be tried again.
    fn drop_lost_mappings(&self, gpa: Option<u64>) -> bool;
}

/// After one run of the guest.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The exit was handled; run again.
    Continue,
    /// A signal ended the run.
    Interrupted,
    /// The machine cannot go on.
    Fatal(FatalExit),
}

/// Why a vCPU cannot go on, and where it was.
#[derive(Debug)]
pub struct FatalExit {
    /// Which vCPU.
    pub vcpu: u8,
    /// Why.
    pub cause: FatalCause,
    registers: Option<Box<(kvm_regs, kvm_sregs)>>,
}

/// The reasons that end a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatalCause {
    /// The guest faulted while it handled a double fault (KVM_EXIT_SHUTDOWN).
    TripleFault,
    /// The CPU refused to enter the guest.
    FailEntry {
        /// The hardware's reason code.
        reason: u64,
    },
    /// KVM could not emulate.
    InternalError {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// What KVM adds.
        data: Vec<u64>,
    },
    /// Memory behind a slot is not there.
    MemoryFault {
        /// The guest address, if the kernel says.
        gpa: Option<u64>,
    },
    /// KVM_RUN failed.
    Run {
        /// The error number.
        errno: i32,
    },
    /// An exit that this machine never asks for.
    Unexpected(String),
}

/// Instruction pointer and code segment base of a CPU after INIT (Intel SDM 3A §10.1.4).
const AFTER_INIT: (u64, u64) = (0xfff0, 0xffff_0000);

/// Runs the guest until the next exit and handles it.
pub(super) fn run_once(
    id: u8,
    vcpu: &mut VcpuFd,
    spaces: &AddressSpaces,
    faults: &dyn MemoryFaultHandler,
) -> Outcome {
    let page = RunPage::new(vcpu.get_kvm_run());
    let cause = match vcpu.run() {
        Ok(VcpuExit::MmioRead(address, data)) => {
            spaces.mmio.read(address, data);
            return Outcome::Continue;
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            spaces.mmio.write(address, data);
            return Outcome::Continue;
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            port_read(&spaces.pio, port, data, page.port_access_width());
            return Outcome::Continue;
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            port_write(&spaces.pio, port, data, page.port_access_width());
            return Outcome::Continue;
        }
        Ok(VcpuExit::Intr) => return Outcome::Interrupted,
        Ok(VcpuExit::Shutdown) => FatalCause::TripleFault,
        Ok(VcpuExit::FailEntry(reason, _cpu)) => FatalCause::FailEntry { reason },
        Ok(VcpuExit::InternalError) => {
            let (suberror, data) = page.internal_error();
            FatalCause::InternalError { suberror, data }
        }
        Ok(VcpuExit::MemoryFault { gpa, .. }) => {
            if faults.drop_lost_mappings(Some(gpa)) {
                return Outcome::Continue;
            }
            FatalCause::MemoryFault { gpa: Some(gpa) }
        }
        Ok(other) => FatalCause::Unexpected(format!("{other:?}")),
        Err(errno) => match errno.errno() {
            libc::EINTR | libc::EAGAIN => return Outcome::Interrupted,
            libc::EFAULT if faults.drop_lost_mappings(None) => return Outcome::Continue,
            libc::EFAULT => FatalCause::MemoryFault { gpa: None },
            errno => FatalCause::Run { errno },
        },
    };
    let registers = vcpu
        .get_regs()
        .ok()
        .zip(vcpu.get_sregs().ok())
        .map(Box::new);
    Outcome::Fatal(FatalExit {
        vcpu: id,
        cause,
        registers,
    })
}

/// A string instruction gives many accesses of `width` bytes to one port in one exit.
fn port_read(space: &AddressSpace, port: u16, data: &mut [u8], width: usize) {
    for access in data.chunks_mut(width) {
        space.read(u64::from(port), access);
    }
}

fn port_write(space: &AddressSpace, port: u16, data: &[u8], width: usize) {
    for access in data.chunks(width) {
        space.write(u64::from(port), access);
    }
}

impl fmt::Display for FatalExit {
    /// One line for the cause, then the registers, indented.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: {}", self.vcpu, self.cause)?;
        let Some(registers) = &self.registers else {
            return Ok(());
        };
        let (r, s) = registers.as_ref();
        if self.cause == FatalCause::TripleFault && (r.rip, s.cs.base) == AFTER_INIT {
            write!(
                f,
                " (KVM on AMD has put the CPU back to its reset state; the registers below are those)"
            )?;
        }
        write!(
            f,
            "\n  rip={:#018x} rsp={:#018x} rflags={:#x}",
            r.rip, r.rsp, r.rflags
        )?;
        write!(
            f,
            "\n  rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        write!(f, "\n  rsi={:#x} rdi={:#x} rbp={:#x}", r.rsi, r.rdi, r.rbp)?;
        write!(
            f,
            "\n  r8={:#x} r9={:#x} r10={:#x} r11={:#x}",
            r.r8, r.r9, r.r10, r.r11
        )?;
        write!(
            f,
            "\n  r12={:#x} r13={:#x} r14={:#x} r15={:#x}",
            r.r12, r.r13, r.r14, r.r15
        )?;
        write!(
            f,
            "\n  cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.efer
        )?;
        write!(
            f,
            "\n  cs={:#x} ds={:#x} ss={:#x} gdt={:#x} idt={:#x}+{:#x}",
            s.cs.selector, s.ds.selector, s.ss.selector, s.gdt.base, s.idt.base, s.idt.limit
        )
    }
}

impl fmt::Display for FatalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FatalCause::TripleFault => write!(f, "triple fault of the guest"),
            FatalCause::FailEntry { reason } => {
                write!(
                    f,
                    "the CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY, hardware reason {reason:#x})"
                )
            }
            FatalCause::InternalError { suberror, data } => {
                write!(f, "KVM internal error, suberror {suberror}, data {data:x?}")
            }
            FatalCause::MemoryFault { gpa: Some(gpa) } => {
                write!(
                    f,
                    "no memory behind guest address {gpa:#x} (KVM_EXIT_MEMORY_FAULT)"
                )
            }
            FatalCause::MemoryFault { gpa: None } => {
                write!(f, "no memory behind a guest address (KVM_RUN: EFAULT)")
            }
            FatalCause::Run { errno } => {
                write!(
                    f,
                    "KVM_RUN failed: {}",
                    io_error(kvm_ioctls::Error::new(*errno))
                )
            }
            FatalCause::Unexpected(exit) => write!(f, "unexpected KVM exit {exit}"),
        }
    }
}
