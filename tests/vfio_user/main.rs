//! `bulkhead-vmm` against vfio-user servers that bend the rules: part B of the conformance list against the real program.
//!
//! Behind the relay that bends is our own test device. The guest is a few instructions, so /dev/kvm is all that is needed.

mod machine;
mod refused;
mod described;
mod attached;
mod answers;
mod lost;
mod interrupts;
mod held;
mod hostile;
mod doorbells;
mod message_dma;
mod system_calls;
