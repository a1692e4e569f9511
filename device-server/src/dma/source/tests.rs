use std::os::fd::{AsFd, OwnedFd};

use protocol::Iova;
use rustix::fs::{MemfdFlags, Mode};

use super::*;

const RW: DmaMapFlags = DmaMapFlags::READ_WRITE;

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("test", flags).expect("memfd");
    rustix::fs::ftruncate(&fd, size).expect("size");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

fn check(fd: impl AsFd, offset: u64, len: u64, flags: DmaMapFlags) -> Result<(), Errno> {
    let range = IovaRange::new(Iova(0), len).expect("a valid range");
    MemorySource::check(fd.as_fd(), offset, range, flags)
        .map(|_| ())
        .map_err(|refusal| refusal.errno)
}

#[test]
fn sealed_memfd_that_is_long_enough_is_accepted() {
    let fd = memfd(0x3000, SealFlags::SHRINK);
    assert_eq!(check(&fd, 0x1000, 0x2000, RW), Ok(()));
}

#[test]
fn memfd_without_shrink_seal_is_refused() {
    let fd = memfd(0x1000, SealFlags::GROW);
    assert_eq!(check(&fd, 0, 0x1000, RW), Err(Errno::PERM));
}

#[test]
fn memfd_too_short_or_offset_that_wraps_is_refused() {
    let fd = memfd(0x2000, SealFlags::SHRINK);
    assert_eq!(check(&fd, 0x1000, 0x2000, RW), Err(Errno::INVAL));
    assert_eq!(check(&fd, 0x4000, 0x1000, RW), Err(Errno::INVAL));
    assert_eq!(check(&fd, u64::MAX - 0xfff, 0x1000, RW), Err(Errno::INVAL));
}

#[test]
fn memfd_sealed_against_writing_is_accepted_for_reading_only() {
    let fd = memfd(0x1000, SealFlags::SHRINK | SealFlags::WRITE);
    assert_eq!(check(&fd, 0, 0x1000, RW), Err(Errno::PERM));
    assert_eq!(check(&fd, 0, 0x1000, DmaMapFlags::READ), Ok(()));
}

#[test]
fn read_only_descriptor_is_accepted_for_reading_only() {
    let fd = memfd(0x1000, SealFlags::SHRINK);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let read_only =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("reopen");
    assert_eq!(check(&read_only, 0, 0x1000, RW), Err(Errno::ACCESS));
    assert_eq!(check(&read_only, 0, 0x1000, DmaMapFlags::READ), Ok(()));
}

#[test]
fn write_only_descriptor_is_refused() {
    let fd = memfd(0x1000, SealFlags::SHRINK);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let write_only =
        rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).expect("reopen");
    assert_eq!(
        check(&write_only, 0, 0x1000, DmaMapFlags::WRITE),
        Err(Errno::ACCESS)
    );
}

#[test]
fn anything_but_a_memfd_is_refused() {
    let (read, write) = rustix::pipe::pipe().expect("pipe");
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd");
    let directory = std::fs::File::open("/").expect("directory");
    let device = std::fs::File::open("/dev/zero").expect("device");
    let path =
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("O_PATH");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("sockets");
    for fd in [
        read.as_fd(),
        write.as_fd(),
        eventfd.as_fd(),
        directory.as_fd(),
        device.as_fd(),
        path.as_fd(),
        socket.as_fd(),
    ] {
        let refused = check(fd, 0, 0x1000, RW);
        assert!(
            matches!(refused, Err(Errno::INVAL | Errno::BADF)),
            "{refused:?}"
        );
    }
}

#[test]
fn m35_huge_page_memory_must_be_mapped_in_whole_huge_pages() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    // A kernel without huge pages cannot be asked.
    let Ok(fd) = rustix::fs::memfd_create("huge", flags | MemfdFlags::HUGE_2MB) else {
        return;
    };
    rustix::fs::ftruncate(&fd, 4 << 20).expect("size");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("seal");
    assert_eq!(check(&fd, 0, 2 << 20, RW), Ok(()));
    assert_eq!(check(&fd, 2 << 20, 2 << 20, RW), Ok(()));
    assert_eq!(check(&fd, 0x1000, 2 << 20, RW), Err(Errno::INVAL));
    assert_eq!(check(&fd, 0, 0x1000, RW), Err(Errno::INVAL));
}
