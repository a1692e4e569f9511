//! The process that starts and watches the others.
//!
//! It opens what they may not, and what it gives up they cannot have either: they leave namespaces, change their root and their
//! user by themselves, so it keeps the power to. It reads no byte of a guest or of vfio-user; from the VMM it takes a closed set
//! of small requests.
//!
//! A filter that allows only what it needs is not possible: its children would inherit it. It refuses instead what no process of a VM
//! needs at any time, on the native ABI and x32 alike; i386 calls kill.

use rustix::thread::CapabilitySet;

use crate::mechanisms::seccomp::Rule;

use super::{Limit, Resource};

/// x32 calls are native ones with this bit.
const X32_BIT: i64 = 0x4000_0000;
/// But these of `NEVER_NEEDED` have numbers of their own there: ptrace, kexec_load, move_pages, process_vm_readv and
/// process_vm_writev. Spec: Linux, arch/x86/entry/syscalls/syscall_64.tbl.
const X32_NUMBERS: [i64; 5] = [521, 528, 533, 539, 540];

/// A capability that is kept, if the process has it.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Which.
    pub capability: CapabilitySet,
    /// What for.
    pub why: &'static str,
}

/// All that are kept.
pub fn capabilities() -> [Kept; 9] {
    let kept = |capability, why| Kept { capability, why };
    [
        kept(
            CapabilitySet::SYS_ADMIN,
            "children leave namespaces and mount their roots; the brake of a lost device",
        ),
        kept(CapabilitySet::SYS_CHROOT, "children change their root"),
        kept(CapabilitySet::SETUID, "children become users of their own"),
        kept(CapabilitySet::SETGID, "children become groups of their own"),
        kept(CapabilitySet::SETPCAP, "children empty their bounding sets"),
        kept(
            CapabilitySet::SYS_RESOURCE,
            "children pin the guest's memory, beyond the usual limit",
        ),
        kept(
            CapabilitySet::KILL,
            "children that are other users are ended",
        ),
        kept(
            CapabilitySet::DAC_OVERRIDE,
            "kernels, sockets and logs of other users",
        ),
        kept(
            CapabilitySet::SYS_PTRACE,
            "whether a VMM still holds a device is seen in /proc",
        ),
    ]
}

/// What it is held to.
pub fn limits() -> [Limit; 1] {
    [Limit {
        resource: Resource::Core,
        value: Some(0),
        why: "a core file would hold paths and sockets of the VM",
    }]
}

/// What no process of a VM needs, and why it is worth taking.
const NEVER_NEEDED: [(&str, &[i64]); 5] = [
    (
        "another kernel, or the end of this one",
        &[
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_reboot,
        ],
    ),
    (
        "programs in the kernel, and large interfaces that have had most of its holes",
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_modify_ldt,
        ],
    ),
    (
        "other processes and their memory",
        &[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_move_pages,
            libc::SYS_migrate_pages,
            libc::SYS_process_madvise,
        ],
    ),
    (
        "namespaces of others, and files past the mounts",
        &[
            libc::SYS_setns,
            libc::SYS_open_by_handle_at,
            libc::SYS_name_to_handle_at,
        ],
    ),
    (
        "the machine's clocks, ports, swap, accounting and log",
        &[
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_clock_adjtime,
            libc::SYS_adjtimex,
            libc::SYS_ioperm,
            libc::SYS_iopl,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_acct,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_syslog,
            libc::SYS_vhangup,
        ],
    ),
];

/// What is refused with EPERM, to it and to everything it starts.
pub fn refused() -> Vec<Rule> {
    let x32 = X32_NUMBERS.map(|call| Rule::syscall(call | X32_BIT, "the same as x32 numbers it"));
    NEVER_NEEDED
        .into_iter()
        .flat_map(|(why, calls)| calls.iter().map(move |call| (why, *call)))
        .flat_map(|(why, call)| [call, call | X32_BIT].map(|call| Rule::syscall(call, why)))
        .chain(x32)
        .collect()
}
