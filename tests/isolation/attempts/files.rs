//! Files, folders and mounts.

use std::io;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{Attempt, Scene, reached};
use crate::layers::Layer::{Capabilities, Filter, Landlock, Root, User};
use crate::raw_call::{bytes, raw, text};

/// In a folder that only root may change.
const CREATED: &str = "/dev/bulkhead-attempt";

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("read a file", read_file, &[Filter, Landlock, Root]),
    Attempt::new(
        "read the environment of another process",
        read_environment,
        &[Filter, Landlock, Root, User, Capabilities],
    ),
    Attempt::new("open VFIO", open_vfio, &[Filter, Landlock, Root]).needs("/dev/vfio/vfio"),
    Attempt::new("open KVM", open_kvm, &[Filter, Landlock, Root]).needs("/dev/kvm"),
    Attempt::new(
        "create a file",
        create_file,
        &[Filter, Landlock, Root, User],
    ),
    Attempt::new(
        "make a folder",
        make_folder,
        &[Filter, Landlock, Root, User],
    ),
    Attempt::new("list a folder", list_folder, &[Filter, Landlock, Root]),
    Attempt::new("look whether a file is there", look, &[Filter, Root]),
    Attempt::new(
        "open a file through openat2",
        open_through_openat2,
        &[Filter, Landlock, Root],
    ),
    Attempt::new(
        "make a file system",
        make_file_system,
        &[Filter, User, Capabilities],
    ),
    Attempt::new(
        "change the root",
        change_root,
        &[Filter, User, Capabilities],
    ),
    Attempt::new(
        "open a file by its handle",
        open_by_handle,
        &[Filter, User, Capabilities],
    )
    .supervisor(&[Filter, Capabilities]),
];

fn open(path: &str, flags: OFlags) -> io::Result<()> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}

fn read_file(_: &Scene) -> io::Result<()> {
    open("/proc/version", OFlags::RDONLY)
}

fn read_environment(scene: &Scene) -> io::Result<()> {
    open(
        &format!("/proc/{}/environ", scene.target.pid),
        OFlags::RDONLY,
    )
}

fn open_vfio(_: &Scene) -> io::Result<()> {
    open("/dev/vfio/vfio", OFlags::RDWR)
}

fn open_kvm(_: &Scene) -> io::Result<()> {
    open("/dev/kvm", OFlags::RDWR)
}

fn create_file(_: &Scene) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::open(CREATED, flags, Mode::RUSR)?;
    std::fs::remove_file(CREATED)
}

fn make_folder(_: &Scene) -> io::Result<()> {
    std::fs::create_dir(CREATED)?;
    std::fs::remove_dir(CREATED)
}

fn list_folder(_: &Scene) -> io::Result<()> {
    open("/proc/1", OFlags::RDONLY | OFlags::DIRECTORY)
}

fn look(_: &Scene) -> io::Result<()> {
    rustix::fs::statat(CWD, "/proc/version", AtFlags::empty())?;
    Ok(())
}

fn open_through_openat2(_: &Scene) -> io::Result<()> {
    let resolve = rustix::fs::ResolveFlags::empty();
    rustix::fs::openat2(CWD, "/proc/version", OFlags::RDONLY, Mode::empty(), resolve)?;
    Ok(())
}

fn make_file_system(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_fsopen, &[text(c"tmpfs"), 1]).map(drop)
}

fn change_root(_: &Scene) -> io::Result<()> {
    raw(libc::SYS_chroot, &[text(c"/")]).map(drop)
}

/// One of 8 bytes, of type 1, that no file has.
fn open_by_handle(scene: &Scene) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut handle = [8_u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let folder = u64::from(scene.held.other.as_raw_fd().unsigned_abs());
    let result = raw(
        libc::SYS_open_by_handle_at,
        &[folder, bytes(&mut handle), 0],
    );
    reached(result, &[libc::EINVAL, libc::ESTALE, libc::EOPNOTSUPP])
}
