use std::os::fd::AsFd;

use rustix::event::{EventfdFlags, eventfd};

use super::*;

fn counter(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

#[test]
fn signal_adds_one_and_can_be_repeated_for_ever() {
    let signaller = Signaller::new().expect("asynchronous I/O");
    let fd = eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
    for _ in 0..10_000 {
        signaller.signal(fd.as_fd()).expect("signal");
    }
    assert_eq!(counter(&fd), 10_000);
}

#[test]
fn q25_q26_signal_of_a_full_blocking_eventfd_does_not_wait() {
    let signaller = Signaller::new().expect("asynchronous I/O");
    let fd = eventfd(0, EventfdFlags::empty()).expect("eventfd");
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
    // A write would wait here for ever.
    for _ in 0..3 {
        signaller.signal(fd.as_fd()).expect("signal");
    }
    assert!(counter(&fd) >= u64::MAX - 1);
    signaller.signal(fd.as_fd()).expect("signal");
    assert_eq!(counter(&fd), 1);
}

#[test]
fn signal_of_what_is_no_eventfd_is_refused() {
    let signaller = Signaller::new().expect("asynchronous I/O");
    let memfd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("memfd");
    assert_eq!(signaller.signal(memfd.as_fd()), Err(Errno::INVAL));
}
