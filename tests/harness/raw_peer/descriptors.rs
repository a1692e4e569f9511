//! File descriptors of every kind, to be sent.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::fuse;
use super::userfault::userfaultfd;

/// Memory as our own VMM sends it.
pub fn memory(size: u64) -> OwnedFd {
    memory_sealed(size, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
}

pub fn memory_sealed(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("bulkhead-client-memory", flags).expect("memfd");
    rustix::fs::ftruncate(&fd, size).expect("size");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

/// The same file with another access mode.
pub fn reopened(fd: &OwnedFd, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("reopen")
}

pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

/// How often an eventfd was signalled since the last call.
pub fn fired(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

/// The one of `of_fuse` of which the kernel itself says the type.
pub const SILENT_FUSE: &str = "silent file of FUSE";

/// Files that another process serves, where this machine can have them.
pub fn of_fuse() -> Vec<(&'static str, OwnedFd)> {
    let files = [
        ("another user's file of FUSE", fuse::file_of_another_user()),
        (SILENT_FUSE, fuse::silent_file()),
    ];
    let sent = files.into_iter().filter_map(|(kind, file)| match file {
        Ok(fd) => Some((kind, fd)),
        Err(error) => {
            eprintln!("not sent: this machine has no {kind} ({error})");
            None
        }
    });
    sent.collect()
}

/// Everything that is neither memory nor an eventfd, by name.
pub fn strange() -> Vec<(&'static str, OwnedFd)> {
    let (pipe_read, pipe_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let (socket, _) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let listening = {
        let (family, kind) = (
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
        );
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, kind, flags, None).expect("socket");
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new_unnamed()).expect("autobind");
        rustix::net::listen(&socket, 1).expect("listen");
        socket
    };
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
    let pidfd = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    );
    let timer = rustix::time::timerfd_create(
        rustix::time::TimerfdClockId::Monotonic,
        rustix::time::TimerfdFlags::CLOEXEC,
    );
    let open = |path: &str, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("open")
    };
    let signals = SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_CLOEXEC).expect("signalfd");
    let inotify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
    let mut strange = vec![
        ("pipe, read end", pipe_read),
        ("pipe, write end", pipe_write),
        ("socket", socket.into()),
        ("listening socket", listening),
        ("epoll", epoll.expect("epoll")),
        ("pidfd", pidfd.expect("pidfd")),
        ("timerfd", timer.expect("timerfd")),
        (
            "signalfd",
            signals.as_fd().try_clone_to_owned().expect("dup"),
        ),
        ("inotify", inotify.expect("inotify")),
        ("directory", open("/tmp", OFlags::RDONLY)),
        ("O_PATH", open("/tmp", OFlags::PATH)),
        ("/dev/zero", open("/dev/zero", OFlags::RDWR)),
        ("/proc file", open("/proc/self/status", OFlags::RDONLY)),
    ];
    match userfaultfd() {
        Ok(fd) => strange.push(("userfaultfd", fd)),
        Err(errno) => eprintln!("not sent: this machine makes no userfaultfd ({errno})"),
    }
    strange.extend(of_fuse());
    strange
}
