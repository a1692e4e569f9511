//! Other processes, and new ones.

use std::io;
use std::os::fd::AsRawFd;

use super::{Attempt, Scene, reached};
use crate::layers::Layer::{Capabilities, Filter, Landlock, Pid, Root, User};
use crate::raw_call::{bytes, raw, text};

const PTRACE_SEIZE: u64 = 0x4206;
const CLONE_NEWUTS: u64 = libc::CLONE_NEWUTS.unsigned_abs() as u64;
const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER.unsigned_abs() as u64;
const AT_EMPTY_PATH: u64 = libc::AT_EMPTY_PATH.unsigned_abs() as u64;
/// The highest priority, -20, as the call takes it.
const HIGHEST: u64 = (-20_i64).cast_unsigned();

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("signal another process", signal, &[Filter, Pid, User]),
    Attempt::new(
        "trace another process",
        trace,
        &[Filter, Pid, User, Capabilities],
    )
    .supervisor(&[Filter]),
    Attempt::new(
        "read the memory of another process",
        read_memory,
        &[Filter, Pid, User, Capabilities],
    )
    .supervisor(&[Filter]),
    Attempt::new(
        "take a descriptor of another process",
        take_descriptor,
        &[Filter, Pid, User, Capabilities],
    )
    .supervisor(&[Filter]),
    Attempt::new("put another process on a CPU", pin, &[Filter, Pid, User]),
    Attempt::new("fork", fork, &[Filter]),
    Attempt::new("start a thread", start_thread, &[Filter]),
    Attempt::new("start a program", start_program, &[Filter, Landlock, Root]),
    Attempt::new("start a program from memory", start_from_memory, &[Filter]),
    Attempt::new("become root", become_root, &[Filter, User]),
    Attempt::new(
        "enter a namespace",
        enter_namespace,
        &[Filter, User, Capabilities],
    )
    .supervisor(&[Filter]),
    Attempt::new(
        "make a namespace",
        make_namespace,
        &[Filter, User, Capabilities],
    ),
    Attempt::new("make a user namespace", make_user_namespace, &[Filter]),
    Attempt::new(
        "run before all others",
        raise_priority,
        &[Filter, User, Capabilities],
    ),
];

fn pid(scene: &Scene) -> u64 {
    u64::from(scene.target.pid)
}

/// One that the other ignores. SIGCONT goes to the whole session.
fn signal(scene: &Scene) -> io::Result<()> {
    raw(
        libc::SYS_kill,
        &[pid(scene), libc::SIGURG.unsigned_abs().into()],
    )
    .map(drop)
}

fn trace(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_ptrace, &[PTRACE_SEIZE, pid(scene)]).map(drop)
}

fn read_memory(scene: &Scene) -> io::Result<()> {
    let mut buffer = [0_u8; 8];
    let vector = |address: u64| [address.to_ne_bytes(), 8_u64.to_ne_bytes()].concat();
    let (mut ours, mut theirs) = (vector(bytes(&mut buffer)), vector(scene.target.address));
    let arguments = [pid(scene), bytes(&mut ours), 1, bytes(&mut theirs), 1, 0];
    raw(libc::SYS_process_vm_readv, &arguments).map(drop)
}

fn take_descriptor(scene: &Scene) -> io::Result<()> {
    let process = raw(libc::SYS_pidfd_open, &[pid(scene), 0])?;
    raw(libc::SYS_pidfd_getfd, &[process, 0, 0]).map(drop)
}

fn pin(scene: &Scene) -> io::Result<()> {
    let mut mask = 1_u64.to_ne_bytes();
    raw(
        libc::SYS_sched_setaffinity,
        &[pid(scene), 8, bytes(&mut mask)],
    )
    .map(drop)
}

fn fork(_: &Scene) -> io::Result<()> {
    if raw(libc::SYS_fork, &[])? == 0 {
        // The child: it has nothing to do.
        raw(libc::SYS_exit_group, &[0])?;
    }
    Ok(())
}

fn start_thread(_: &Scene) -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ()).map(drop)
}

/// This program again, which then says that it was started.
fn start_program(_: &Scene) -> io::Result<()> {
    let words = [c"isolation"].map(text);
    let mut arguments: Vec<u8> = words
        .into_iter()
        .chain([0])
        .flat_map(u64::to_ne_bytes)
        .collect();
    let mut environment: Vec<u8> = [text(c"STARTED=1"), 0]
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .collect();
    let call = [
        text(c"/proc/self/exe"),
        bytes(&mut arguments),
        bytes(&mut environment),
    ];
    raw(libc::SYS_execve, &call).map(drop)
}

/// The file is no program: that is said after all checks of rights.
fn start_from_memory(scene: &Scene) -> io::Result<()> {
    let memory = u64::from(scene.held.memory.as_raw_fd().unsigned_abs());
    let result = raw(
        libc::SYS_execveat,
        &[memory, text(c""), 0, 0, AT_EMPTY_PATH],
    );
    reached(result, &[libc::ENOEXEC])
}

fn become_root(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_setresuid, &[0, 0, 0]).map(drop)
}

fn enter_namespace(scene: &Scene) -> io::Result<()> {
    let namespace = u64::from(scene.held.namespace.as_raw_fd().unsigned_abs());
    raw(libc::SYS_setns, &[namespace, 0]).map(drop)
}

fn make_namespace(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_unshare, &[CLONE_NEWUTS]).map(drop)
}

fn make_user_namespace(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_unshare, &[CLONE_NEWUSER]).map(drop)
}

fn raise_priority(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_setpriority, &[0, 0, HIGHEST]).map(drop)
}
