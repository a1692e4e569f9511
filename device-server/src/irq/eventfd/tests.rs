use std::os::fd::{AsFd, OwnedFd};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags};
use rustix::event::EventfdFlags;

use super::*;

fn eventfd(initial: u32, flags: EventfdFlags) -> OwnedFd {
    rustix::event::eventfd(initial, flags | EventfdFlags::CLOEXEC).expect("eventfd")
}

fn adopted(fd: &OwnedFd) -> Eventfd {
    let signaller = Arc::new(Signaller::new().expect("asynchronous I/O"));
    Eventfd::adopt(fd.try_clone().expect("dup").into(), &signaller).expect("an eventfd")
}

fn counter(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).expect("counter");
    u64::from_ne_bytes(bytes)
}

#[test]
fn eventfds_of_every_kind_are_recognised_and_not_disturbed() {
    for flags in [
        EventfdFlags::empty(),
        EventfdFlags::NONBLOCK,
        EventfdFlags::SEMAPHORE,
    ] {
        let fd = eventfd(0, flags | EventfdFlags::NONBLOCK);
        assert!(is_eventfd(fd.as_fd()));
        assert_eq!(
            rustix::io::read(&fd, &mut [0; 8]),
            Err(Errno::AGAIN),
            "the counter is still 0"
        );
    }
}

#[test]
fn full_eventfd_is_recognised_and_firing_it_does_not_block() {
    let fd = eventfd(0, EventfdFlags::empty());
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
    assert!(is_eventfd(fd.as_fd()));
    let ours = adopted(&fd);
    ours.fire();
    assert_eq!(counter(&fd), u64::MAX - 1, "the interrupt was dropped");
}

#[test]
fn fire_adds_one_and_take_consumes() {
    let fd = eventfd(0, EventfdFlags::NONBLOCK);
    let ours = adopted(&fd);
    assert!(!ours.take());
    ours.fire();
    ours.fire();
    assert_eq!(counter(&fd), 2);
    ours.fire();
    assert!(ours.take());
    assert!(!ours.take());
}

#[test]
fn q26_take_of_an_empty_blocking_eventfd_does_not_wait() {
    let fd = eventfd(0, EventfdFlags::empty());
    let ours = adopted(&fd);
    // A read would wait here for ever.
    assert!(!ours.take());
}

#[test]
fn q26_client_that_turns_blocking_on_and_empties_and_fills_never_holds_us_up() {
    let fd = eventfd(0, EventfdFlags::NONBLOCK);
    let ours = adopted(&fd);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let theirs = fd.as_fd();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::io::ioctl_fionbio(theirs, false);
                let _ = read_without_waiting(theirs, &mut [0; 8]);
                let _ = rustix::io::ioctl_fionbio(theirs, true);
                let _ = rustix::io::write(theirs, &(u64::MAX - 1).to_ne_bytes());
            }
        });
        for _ in 0..20_000 {
            ours.take();
            ours.fire();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn fanotify_group_is_no_eventfd() {
    let group = match Fanotify::init(InitFlags::FAN_CLOEXEC, EventFFlags::O_RDWR) {
        Ok(group) => group,
        Err(errno) => {
            eprintln!("skipped: no fanotify group can be made ({errno})");
            return;
        }
    };
    assert!(!is_eventfd(group.as_fd()));
}

#[test]
fn everything_else_is_refused() {
    let (pipe_read, pipe_write) = rustix::pipe::pipe().expect("pipe");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let epoll =
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("epoll");
    let memfd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let timer = rustix::time::timerfd_create(
        rustix::time::TimerfdClockId::Monotonic,
        rustix::time::TimerfdFlags::CLOEXEC,
    )
    .expect("timerfd");
    let inotify =
        rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).expect("inotify");
    let pidfd = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )
    .expect("pidfd");
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("device");
    let directory = std::fs::File::open("/").expect("directory");
    let fds = [
        ("pipe, read end", pipe_read.as_fd()),
        ("pipe, write end", pipe_write.as_fd()),
        ("socket", socket.as_fd()),
        ("epoll", epoll.as_fd()),
        ("memfd", memfd.as_fd()),
        ("timerfd", timer.as_fd()),
        ("inotify", inotify.as_fd()),
        ("pidfd", pidfd.as_fd()),
        ("device", null.as_fd()),
        ("directory", directory.as_fd()),
    ];
    for (kind, fd) in fds {
        assert!(!is_eventfd(fd), "{kind}");
    }
}
