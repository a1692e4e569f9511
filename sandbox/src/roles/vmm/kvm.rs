//! The requests that KVM takes, by their numbers.
//!
//! Spec: Linux, include/uapi/linux/kvm.h. The crate `vmm` compares them with kvm_bindings' structures (kvm/tests/requests.rs).

/// Runs a virtual CPU.
pub const RUN: u64 = 0xae80;
/// Reads its registers.
pub const GET_REGS: u64 = 0x8090_ae81;
/// Reads its system registers.
pub const GET_SREGS: u64 = 0x8138_ae83;

/// Sets its registers.
pub const SET_REGS: u64 = 0x4090_ae82;
/// Sets its system registers.
pub const SET_SREGS: u64 = 0x4138_ae84;
/// Sets its model-specific registers.
pub const SET_MSRS: u64 = 0x4008_ae89;
/// Sets its floating-point registers.
pub const SET_FPU: u64 = 0x41a0_ae8d;
/// Sets its local interrupt controller.
pub const SET_LAPIC: u64 = 0x4400_ae8f;
/// Sets whether it runs or waits to be started.
pub const SET_MP_STATE: u64 = 0x4004_ae99;
/// Sets what is pending in it.
pub const SET_VCPU_EVENTS: u64 = 0x4040_aea0;
/// Sets its debug registers.
pub const SET_DEBUGREGS: u64 = 0x4080_aea2;
/// Sets its extended control registers.
pub const SET_XCRS: u64 = 0x4188_aea7;

/// Sets an interrupt controller.
pub const SET_IRQCHIP: u64 = 0x8208_ae63;
/// Sets the timer.
pub const SET_PIT2: u64 = 0x4070_aea0;

/// Maps memory into the guest, or takes it away.
pub const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
/// Raises or lowers a pin.
pub const IRQ_LINE: u64 = 0x4008_ae61;
/// Sets what interrupts mean.
pub const SET_GSI_ROUTING: u64 = 0x4008_ae6a;
/// Ties an eventfd to an interrupt.
pub const IRQFD: u64 = 0x4020_ae76;
/// Ties an eventfd to writes of the guest.
pub const IOEVENTFD: u64 = 0x4040_ae79;
/// Sends a message-signalled interrupt.
pub const SIGNAL_MSI: u64 = 0x4020_aea5;
