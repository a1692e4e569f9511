//! The numbers of the system call filter are those of KVM's requests.

use kvm_bindings as uapi;
use sandbox::roles::vmm::kvm;

/// `_IOW` of include/uapi/asm-generic/ioctl.h: the program's memory is read.
const WRITE: u64 = 1;
/// `_IOR`.
const READ: u64 = 2;

/// A request whose argument is a `T`, by the macros of ioctl.h.
fn request<T>(direction: u64, number: u64) -> u64 {
    let size = u64::try_from(size_of::<T>()).unwrap();
    direction << 30 | size << 16 | 0xae00 | number
}

#[test]
fn filter_names_the_requests_of_the_kernels_structures() {
    let rows = [
        (kvm::GET_REGS, request::<uapi::kvm_regs>(READ, 0x81)),
        (kvm::GET_SREGS, request::<uapi::kvm_sregs>(READ, 0x83)),
        (kvm::SET_REGS, request::<uapi::kvm_regs>(WRITE, 0x82)),
        (kvm::SET_SREGS, request::<uapi::kvm_sregs>(WRITE, 0x84)),
        (kvm::SET_MSRS, request::<uapi::kvm_msrs>(WRITE, 0x89)),
        (kvm::SET_FPU, request::<uapi::kvm_fpu>(WRITE, 0x8d)),
        (
            kvm::SET_LAPIC,
            request::<uapi::kvm_lapic_state>(WRITE, 0x8f),
        ),
        (
            kvm::SET_MP_STATE,
            request::<uapi::kvm_mp_state>(WRITE, 0x99),
        ),
        (
            kvm::SET_VCPU_EVENTS,
            request::<uapi::kvm_vcpu_events>(WRITE, 0xa0),
        ),
        (
            kvm::SET_DEBUGREGS,
            request::<uapi::kvm_debugregs>(WRITE, 0xa2),
        ),
        (kvm::SET_XCRS, request::<uapi::kvm_xcrs>(WRITE, 0xa7)),
        // kvm.h says _IOR, though the kernel reads it.
        (kvm::SET_IRQCHIP, request::<uapi::kvm_irqchip>(READ, 0x63)),
        (kvm::SET_PIT2, request::<uapi::kvm_pit_state2>(WRITE, 0xa0)),
        (
            kvm::SET_USER_MEMORY_REGION,
            request::<uapi::kvm_userspace_memory_region>(WRITE, 0x46),
        ),
        (kvm::IRQ_LINE, request::<uapi::kvm_irq_level>(WRITE, 0x61)),
        (
            kvm::SET_GSI_ROUTING,
            request::<uapi::kvm_irq_routing>(WRITE, 0x6a),
        ),
        (kvm::IRQFD, request::<uapi::kvm_irqfd>(WRITE, 0x76)),
        (kvm::IOEVENTFD, request::<uapi::kvm_ioeventfd>(WRITE, 0x79)),
        (kvm::SIGNAL_MSI, request::<uapi::kvm_msi>(WRITE, 0xa5)),
    ];
    for (ours, kernels) in rows {
        assert_eq!(ours, kernels, "{ours:#x} and {kernels:#x}");
    }
    assert_eq!(kvm::RUN, 0xae80);
}
