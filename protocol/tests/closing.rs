//! What peers sent and does not close, in a process with threads that close for others. Starts no process: it would inherit a file
//! that it cannot close.

#![cfg(test)]

use harness::deadline::{PROCESS, eventually};
use harness::raw_message::RawMessage;
use harness::raw_peer::{fuse, lingering};
use protocol::ReceivedFd;
use protocol::closing::{INTERRUPT, close_for_others, is_full, promise};
use protocol::limits::{CLOSE_DEADLINE, KERNEL_MAX_FDS};
use protocol::transport::ByteStream;
use rustix::io::Errno;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;
use vmm_sys_util::signal::register_signal_handler;

const THREADS: usize = 2;

static TURN: Mutex<()> = Mutex::new(());
static START: Once = Once::new();

extern "C" fn ignore<T>(_: c_int, _: *mut T, _: *mut c_void) {}

/// The threads are there, and no other test uses them.
fn closers() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    START.call_once(|| {
        register_signal_handler(INTERRUPT as c_int, ignore).unwrap();
        promise(THREADS);
        for _ in 0..THREADS {
            std::thread::spawn(close_for_others);
        }
    });
    turn
}

fn unclosable_file() -> Option<fuse::Held> {
    let file = fuse::unclosable_file();
    file.inspect_err(|error| eprintln!("skipped: this machine has no file of FUSE ({error})"))
        .ok()
}

#[test]
fn socket_that_lingers_is_closed_before_the_deadline() {
    let _turn = closers();
    let (socket, _reader) = lingering::tcp_socket().unwrap();
    let begun = Instant::now();
    drop(ReceivedFd::from(socket));
    assert!(begun.elapsed() < CLOSE_DEADLINE, "{:?}", begun.elapsed());
}

#[test]
fn stream_with_a_socket_that_lingers_does_not_wait_for_it() {
    let _turn = closers();
    let (peer, stream) = UnixStream::pair().unwrap();
    let (socket, _reader) = lingering::tcp_socket().unwrap();
    let message = RawMessage {
        bytes: b"x".to_vec(),
        fds: vec![socket],
    };
    message.send(&peer).unwrap();
    drop(message);
    let stream = ByteStream::new(stream.into());
    assert_eq!(stream.read(&mut [0; 8]), Ok(1));
    assert_eq!(stream.read(&mut [0; 8]), Err(Errno::AGAIN));
}

#[test]
fn stream_whose_files_do_not_close_is_at_its_end_and_another_is_not() {
    let _turn = closers();
    let Some(file) = unclosable_file() else {
        return;
    };
    let (peer, stream) = UnixStream::pair().unwrap();
    let stream = ByteStream::new(stream.into());
    let message = RawMessage {
        bytes: b"x".to_vec(),
        fds: Vec::new(),
    };
    let fds: [BorrowedFd<'_>; KERNEL_MAX_FDS] = std::array::from_fn(|_| file.as_fd());
    for _ in 0..2 {
        message.send_with(&peer, &fds).unwrap();
        assert_eq!(stream.read(&mut [0; 8]), Ok(1));
    }
    message.send(&peer).unwrap();
    assert_eq!(stream.read(&mut [0; 8]), Ok(0));
    assert!(!is_full());
    let (other, served) = UnixStream::pair().unwrap();
    let (socket, _reader) = lingering::tcp_socket().unwrap();
    let with_socket = RawMessage {
        bytes: b"y".to_vec(),
        fds: vec![socket],
    };
    with_socket.send(&other).unwrap();
    drop(with_socket);
    assert_eq!(ByteStream::new(served.into()).read(&mut [0; 8]), Ok(1));
}

#[test]
fn peers_whose_files_do_not_close_fill_it_until_one_does() {
    let _turn = closers();
    let Some(file) = unclosable_file() else {
        return;
    };
    for held in 0..THREADS {
        assert!(!is_full(), "{held} are held");
        let copy = file.as_fd().try_clone_to_owned().unwrap();
        drop(ReceivedFd::from(copy));
    }
    assert!(is_full());
    // Nobody is left to wait for.
    let begun = Instant::now();
    drop(ReceivedFd::from(
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
    ));
    assert!(begun.elapsed() < CLOSE_DEADLINE, "{:?}", begun.elapsed());
    file.release();
    eventually("room", PROCESS, || (!is_full()).then_some(())).unwrap();
}
