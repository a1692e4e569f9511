//! The attacker inside the vfio role: what it tries and what stops it. Needs root.
//!
//! Each attempt runs in a process of its own, which enters the sandbox, tries, and exits with a status that tells.
#![expect(
    clippy::unwrap_used,
    clippy::exit,
    reason = "a test stops at the first thing that goes wrong"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use sandbox::enter;
use sandbox::profile::{Mode, Start};
use sandbox::roles::vfio::{self, VfioDescriptors};

/// What an attempt exits with when nothing stopped it, and when the kernel said no.
const DONE: i32 = 42;
const REFUSED: i32 = 43;
const SIGSYS: i32 = 31;
const SIGABRT: i32 = 6;

fn role(pinned: &File) -> sandbox::roles::Role {
    let descriptors = VfioDescriptors {
        containers: vec![pinned.as_raw_fd()],
        groups: Vec::new(),
        log_to_file: false,
    };
    vfio::role(&descriptors, 1, Some(64 << 20), Vec::new())
}

fn outcome<T, E>(result: Result<T, E>) -> i32 {
    if result.is_ok() { DONE } else { REFUSED }
}

/// A thread that was there before the sandbox, with a heap of its own.
struct Worker {
    begin: Sender<()>,
    ended: Receiver<()>,
}

impl Worker {
    fn start() -> Worker {
        let (begin, wait) = channel();
        let (end, ended) = channel();
        std::thread::spawn(move || {
            if wait.recv().is_ok() {
                // Small enough for the heap, and together more than it keeps at its end.
                let blocks: Vec<Vec<u8>> = (0..256).map(|_| vec![1; 64 << 10]).collect();
                drop(std::hint::black_box(blocks));
                end.send(()).unwrap();
            }
        });
        Worker { begin, ended }
    }

    fn shrink_its_heap(&self) -> i32 {
        self.begin.send(()).unwrap();
        outcome(self.ended.recv())
    }
}

/// Not a test of its own: enters the sandbox and tries what the environment names.
#[test]
#[ignore = "run by the other tests"]
fn attempt() {
    let what = std::env::var("ATTEMPT").unwrap();
    let pinned = File::open("/dev/null").unwrap();
    let other = File::open("/dev/null").unwrap();
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let worker = Worker::start();
    let role = role(&pinned);
    let start = Start {
        mode: Mode::On,
        uid: None,
        alone: false,
    };
    let sandbox = enter::leave_host(&role.power, start).unwrap();
    let half = what.strip_prefix("half-").map(str::to_owned);
    if half.is_none() {
        sandbox.close(&role.calls).unwrap();
    }
    let status = match half.as_deref().unwrap_or(&what) {
        "nothing" => {
            theirs.write_all(b"hello").unwrap();
            let mut text = [0; 5];
            ours.read_exact(&mut text).unwrap();
            UnixStream::pair().unwrap();
            std::hint::black_box(vec![1_u8; 32 << 20]);
            DONE
        }
        "open" => outcome(File::open("/proc/self/status")),
        "shrink-heap" => worker.shrink_its_heap(),
        "socket" => outcome(UdpSocket::bind("127.0.0.1:0")),
        "listen" => outcome(TcpListener::bind("127.0.0.1:0")),
        "exec" => outcome(Command::new("/bin/true").status()),
        "thread" => outcome(std::thread::Builder::new().spawn(|| ())),
        "signal" => outcome(rustix::process::kill_process(
            rustix::process::getppid().unwrap(),
            rustix::process::Signal::TERM,
        )),
        "become-root" => outcome(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))),
        "namespace" => outcome(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
        "pipe" => outcome(rustix::pipe::pipe()),
        "abort" => std::process::abort(),
        "close-pinned" => {
            let number = pinned.as_raw_fd();
            drop(pinned);
            // Still taken: the next copy gets another number.
            let copy = rustix::io::fcntl_dupfd_cloexec(&other, number).unwrap();
            if copy.as_raw_fd() == number {
                DONE
            } else {
                REFUSED
            }
        }
        unknown => panic!("{unknown}"),
    };
    std::process::exit(status);
}

fn run(what: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "attempt", "--test-threads=1"])
        .env("ATTEMPT", what)
        .stdout(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn what_the_role_needs_works() {
    assert_eq!(run("nothing").code(), Some(DONE));
}

#[test]
fn calls_outside_the_role_kill() {
    for what in [
        "socket",
        "listen",
        "exec",
        "thread",
        "signal",
        "become-root",
        "namespace",
        "pipe",
    ] {
        assert_eq!(run(what).signal(), Some(SIGSYS), "{what}");
    }
}

/// glibc opens a file of /proc when it shrinks a thread's heap: a server that died of it lost its next client.
#[test]
fn opening_a_file_is_refused_and_does_not_kill() {
    assert_eq!(run("open").code(), Some(REFUSED));
    assert_eq!(run("shrink-heap").code(), Some(DONE));
}

#[test]
fn abort_ends_the_process_in_its_own_way() {
    assert_eq!(run("abort").signal(), Some(SIGABRT));
}

#[test]
fn numbers_of_container_and_group_cannot_be_freed() {
    assert_eq!(run("close-pinned").code(), Some(REFUSED));
}

#[test]
fn without_the_call_filter_the_other_layers_refuse() {
    for what in ["half-open", "half-listen", "half-exec", "half-become-root"] {
        assert_eq!(run(what).code(), Some(REFUSED), "{what}");
    }
}
