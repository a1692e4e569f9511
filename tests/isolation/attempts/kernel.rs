//! Interfaces of the kernel that no process of a VM needs, and what is the whole machine's.

use std::io;

use super::{Attempt, Scene, reached};
use crate::layers::Layer::{Capabilities, Filter, User};
use crate::raw_call::{X32_BIT, bytes, i386_getpid, raw, text};

const NO_DESCRIPTOR: u64 = 0xffff_ffff;
const BPF_MAP_CREATE: u64 = 0;
const KEYCTL_GET_KEYRING_ID: u64 = 0;
/// KEY_SPEC_PROCESS_KEYRING.
const PROCESS_KEYRING: u64 = (-2_i64).cast_unsigned();
/// Include/uapi/linux/reboot.h: the magic numbers, and what control-alt-delete does: no reboot.
const REBOOT: [u64; 3] = [0xfee1_dead, 672_274_793, 0];
const SYSLOG_ACTION_SIZE_BUFFER: u64 = 10;

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        "load another kernel",
        load_kernel,
        &[Filter, User, Capabilities],
    )
    .supervisor(&[Filter, Capabilities])
    .needs("CONFIG_KEXEC"),
    Attempt::new("load a module", load_module, &[Filter, User, Capabilities])
        .supervisor(&[Filter, Capabilities])
        .needs("CONFIG_MODULES"),
    Attempt::new("BPF", bpf, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_BPF_SYSCALL"),
    Attempt::new("io_uring", io_uring, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_IO_URING"),
    Attempt::new("userfaultfd", userfaultfd, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_USERFAULTFD"),
    Attempt::new("keyrings", keyrings, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_KEYS"),
    Attempt::new("performance counters", performance, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_PERF_EVENTS"),
    Attempt::new("a call of the x32 ABI", x32, &[Filter])
        .needs("CONFIG_X86_X32_ABI, and syscall.x32=y where Debian's"),
    Attempt::new("a call of the i386 ABI", i386, &[Filter])
        .supervisor(&[Filter])
        .needs("CONFIG_IA32_EMULATION"),
    Attempt::new("ports of the machine", ports, &[Filter, User, Capabilities])
        .supervisor(&[Filter, Capabilities])
        .needs("CONFIG_X86_IOPL_IOPERM"),
    Attempt::new("reboot the machine", reboot, &[Filter, User, Capabilities])
        .supervisor(&[Filter, Capabilities]),
    Attempt::new("the kernel's log", kernel_log, &[Filter]).supervisor(&[Filter]),
    Attempt::new("set the clock", set_clock, &[Filter, User, Capabilities])
        .supervisor(&[Filter, Capabilities]),
    Attempt::new(
        "name the machine",
        name_machine,
        &[Filter, User, Capabilities],
    ),
    Attempt::new("take swap away", take_swap, &[Filter, User, Capabilities])
        .supervisor(&[Filter])
        .needs("CONFIG_SWAP"),
    Attempt::new(
        "process accounting",
        accounting,
        &[Filter, User, Capabilities],
    )
    .supervisor(&[Filter, Capabilities])
    .needs("CONFIG_BSD_PROCESS_ACCT"),
];

/// With nothing to load.
fn load_kernel(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_kexec_load, &[]).map(drop)
}

/// Out of no file.
fn load_module(_: &Scene) -> io::Result<()> {
    let result = raw(libc::SYS_finit_module, &[NO_DESCRIPTOR, text(c""), 0]);
    reached(result, &[libc::EBADF])
}

/// An array of one number.
fn bpf(_: &Scene) -> io::Result<()> {
    let array = [2_u32, 4, 4, 1];
    let mut attributes: Vec<u8> = array.into_iter().flat_map(u32::to_ne_bytes).collect();
    attributes.resize(64, 0);
    raw(libc::SYS_bpf, &[BPF_MAP_CREATE, bytes(&mut attributes), 64]).map(drop)
}

fn io_uring(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_io_uring_setup, &[1, bytes(&mut [0; 120])]).map(drop)
}

fn userfaultfd(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_userfaultfd, &[0]).map(drop)
}

fn keyrings(_: &Scene) -> io::Result<()> {
    raw(
        libc::SYS_keyctl,
        &[KEYCTL_GET_KEYRING_ID, PROCESS_KEYRING, 1],
    )
    .map(drop)
}

/// The clock of a task, a counter of software: type 1, of 128 bytes.
fn performance(_: &Scene) -> io::Result<()> {
    let mut attributes: Vec<u8> = [1_u32, 128]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    attributes.extend_from_slice(&1_u64.to_ne_bytes());
    attributes.resize(128, 0);
    raw(
        libc::SYS_perf_event_open,
        &[bytes(&mut attributes), 0, NO_DESCRIPTOR, NO_DESCRIPTOR, 0],
    )
    .map(drop)
}

fn x32(_: &Scene) -> io::Result<()> {
    raw(X32_BIT | libc::SYS_getpid, &[]).map(drop)
}

fn i386(_: &Scene) -> io::Result<()> {
    i386_getpid().map(drop)
}

fn ports(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_ioperm, &[0x80, 1, 1]).map(drop)
}

fn reboot(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_reboot, &REBOOT).map(drop)
}

fn kernel_log(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_syslog, &[SYSLOG_ACTION_SIZE_BUFFER]).map(drop)
}

/// To nothing new.
fn set_clock(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_settimeofday, &[]).map(drop)
}

/// As it is named.
fn name_machine(_: &Scene) -> io::Result<()> {
    let system = rustix::system::uname();
    let name = system.nodename();
    raw(
        libc::SYS_sethostname,
        &[text(name), name.to_bytes().len() as u64],
    )
    .map(drop)
}

fn take_swap(_: &Scene) -> io::Result<()> {
    reached(raw(libc::SYS_swapoff, &[text(c"/none")]), &[libc::ENOENT])
}

fn accounting(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_acct, &[]).map(drop)
}
