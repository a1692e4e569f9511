//! The board: what a guest needs to boot, and nothing that a device server could do.
//!
//! | File | Question it answers |
//! |---|---|
//! | `boot` | how a kernel gets into memory and what the first vCPU begins with |
//! | `acpi` | what the guest is told about the board |
//! | `serial` | where console bytes go and come from |
//! | `power` | how the guest turns itself off or resets itself |
//! | `cpuid` | which CPU the guest sees |
//! | `terminal` | the operator's terminal while the guest has it |

pub mod boot;
pub mod acpi;
pub mod serial;
pub mod terminal;
pub mod power;
pub mod cpuid;
