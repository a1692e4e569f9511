//! Code that was not there, memory of others, and more of anything than the role may have.

use std::io;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

use super::{ATTACH, Attempt, Scene, VCPU};
use crate::layers::Layer::{Cgroup, Filter, Ipc, Limits};
use crate::raw_call::raw;
use crate::role::Role::{Iommufd, Type1};

const PAGE: u64 = 4096;
const NO_DESCRIPTOR: u64 = 0xffff_ffff;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs() as u64;
const READ_EXEC: u64 = (libc::PROT_READ | libc::PROT_EXEC).unsigned_abs() as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unsigned_abs() as u64;
const SHARED: u64 = libc::MAP_SHARED.unsigned_abs() as u64;
/// More memory than the control group of the tests has.
const MUCH_BYTES: usize = 256 << 20;
/// More descriptors than any role may have.
const MANY: usize = 18_000;

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("memory that can be executed", executable, &[Filter]),
    Attempt::new("make memory executable", make_executable, &[Filter]),
    Attempt::new("map guest memory", map_guest_memory, &[Filter]).only(&[Iommufd]),
    Attempt::new(
        "map guest memory to execute it",
        execute_guest_memory,
        &[Filter],
    ),
    Attempt::new(
        "write guest memory through its file",
        write_guest_memory,
        &[Filter],
    ),
    Attempt::new("make a memory file", make_memory_file, &[Filter]),
    Attempt::new("shared memory of the host", shared_memory, &[Filter, Ipc])
        .needs("CONFIG_SYSVIPC"),
    Attempt::new("lock memory", lock_memory, &[Filter]),
    Attempt::new("take memory without end", take_memory, &[Cgroup]),
    Attempt::new("grow a file", grow_file, &[Limits]).only(&[Type1, Iommufd]),
    Attempt::new("copy descriptors without end", copy_descriptors, &[Limits])
        .only(&[Type1, Iommufd]),
    Attempt::new("make eventfds without end", make_eventfds, &[Limits]).only(&[VCPU, ATTACH]),
];

fn map(protection: u64, flags: u64, descriptor: u64) -> io::Result<u64> {
    raw(libc::SYS_mmap, &[0, PAGE, protection, flags, descriptor, 0])
}

fn guest_memory(scene: &Scene) -> u64 {
    u64::from(scene.held.memory.as_raw_fd().unsigned_abs())
}

fn executable(_: &Scene) -> io::Result<()> {
    map(READ_EXEC, PRIVATE, NO_DESCRIPTOR).map(drop)
}

fn make_executable(_: &Scene) -> io::Result<()> {
    let address = map(READ_WRITE, PRIVATE, NO_DESCRIPTOR)?;
    raw(libc::SYS_mprotect, &[address, PAGE, READ_EXEC]).map(drop)
}

fn map_guest_memory(scene: &Scene) -> io::Result<()> {
    map(READ_WRITE, SHARED, guest_memory(scene)).map(drop)
}

fn execute_guest_memory(scene: &Scene) -> io::Result<()> {
    map(READ_EXEC, SHARED, guest_memory(scene)).map(drop)
}

fn write_guest_memory(scene: &Scene) -> io::Result<()> {
    rustix::io::pwrite(&scene.held.memory, b"x", 0)?;
    Ok(())
}

fn make_memory_file(_: &Scene) -> io::Result<()> {
    rustix::fs::memfd_create("more", MemfdFlags::CLOEXEC)?;
    Ok(())
}

fn shared_memory(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_shmget, &[scene.target.shared_memory_key, 0, 0]).map(drop)
}

fn lock_memory(_: &Scene) -> io::Result<()> {
    let address = map(READ_WRITE, PRIVATE, NO_DESCRIPTOR)?;
    raw(libc::SYS_mlock, &[address, PAGE]).map(drop)
}

/// More than the control group has, page by page.
fn take_memory(_: &Scene) -> io::Result<()> {
    let mut taken = vec![0_u8; MUCH_BYTES];
    for page in taken.chunks_mut(4096) {
        page.fill(1);
    }
    std::hint::black_box(&taken);
    Ok(())
}

/// A write at its beginning is one beyond the limit of 0 bytes too.
fn grow_file(scene: &Scene) -> io::Result<()> {
    (&scene.held.memory).write_all(b"x")
}

fn copy_descriptors(scene: &Scene) -> io::Result<()> {
    let copies: io::Result<Vec<OwnedFd>> = (0..MANY)
        .map(|_| {
            Ok(rustix::io::fcntl_dupfd_cloexec(
                scene.held.other.as_fd(),
                0,
            )?)
        })
        .collect();
    copies.map(drop)
}

fn make_eventfds(_: &Scene) -> io::Result<()> {
    let made: io::Result<Vec<OwnedFd>> = (0..MANY)
        .map(|_| Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?))
        .collect();
    made.map(drop)
}
