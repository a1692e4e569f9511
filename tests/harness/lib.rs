//! Plumbing of the tests: processes, sockets, host devices, the guest's console. It hides plumbing, never inputs:
//! a test shows the arguments that it gives to our programs and the script that the guest runs.
//!
//! Words: L0 is this machine, L1 the lab machine (scripts/lab), L2 the guest. Tests that need VFIO or a Linux
//! guest run inside L1; they are marked `#[ignore]`, and scripts/test runs them there.
//! Limits: every wait ends at a deadline (`deadline.rs`); what a test starts ends with the test (`process.rs`).

#![expect(
    missing_docs,
    reason = "internal: what has a telling name and nothing to add needs no sentence"
)]

pub mod vm;
pub mod device_server;
pub mod refusal;
pub mod qmp;
pub mod guest;
pub mod bare_guest;
pub mod obedient_guest;
pub mod hostile_cpu;
pub mod message_counter;
pub mod bending_relay;
pub mod raw_peer;
pub mod raw_message;
pub mod peer_qemu;
pub mod process;
pub mod console;
pub mod packaged;
pub mod host_device;
pub mod kvm_statistics;
pub mod system_calls;
pub mod installed_filters;
pub mod proc_files;
pub mod initrd;
pub mod pattern;
pub mod scratch;
pub mod programs;
pub mod deadline;
