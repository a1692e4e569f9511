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
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::fs::{MemfdFlags, Mode as FileMode, OFlags};
use rustix::io::DupFlags;
use sandbox::enter;
use sandbox::profile::{Mode, Start};
use sandbox::roles::vfio::{self, IommuDescriptor, Renewal, VfioDescriptors};
use sandbox::roles::{Folder, Need, Role};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

/// What an attempt exits with when nothing stopped it, and when the kernel said no.
const DONE: i32 = 42;
const REFUSED: i32 = 43;
const SIGSYS: i32 = 31;
const SIGABRT: i32 = 6;

/// The role of a server that has one device, at the number of `device`. With iommufd it opens /dev/null anew for it.
fn role(iommu: &str, device: &File, iommufd: &File, folder: &File) -> Role {
    let number = iommufd.as_raw_fd();
    let (iommu, renewal, folders) = match iommu {
        "type1" => (IommuDescriptor::Type1(number), Renewal::Never, Vec::new()),
        "type1-once" => {
            let group = Renewal::Once(folder.as_raw_fd());
            (IommuDescriptor::Type1(number), group, Vec::new())
        }
        _ => {
            let node = Folder {
                fd: folder.try_clone().unwrap().into(),
                number: folder.as_raw_fd(),
                need: Need::OpenNode("null".to_owned()),
                why: "test",
            };
            (IommuDescriptor::Iommufd(number), Renewal::Node, vec![node])
        }
    };
    let descriptors = VfioDescriptors {
        devices: vec![device.as_raw_fd()],
        iommu,
        renewal,
    };
    vfio::role(&descriptors, Some(64 << 20), false, folders)
}

/// A shared mapping of a memfd.
fn map_shared(memfd: &File) -> Result<MmapRegion, MmapRegionError> {
    MmapRegion::from_file(FileOffset::new(memfd.try_clone().unwrap(), 0), 4096)
}

fn open_node(folder: &File, name: &str, flags: OFlags) -> i32 {
    let flags = flags | OFlags::CLOEXEC;
    outcome(rustix::fs::openat(folder, name, flags, FileMode::empty()))
}

/// What the process holds, and what it tries to do with it.
struct Held {
    device: File,
    iommu: File,
    other: File,
    memfd: File,
    folder: File,
}

impl Held {
    fn open() -> Held {
        let [device, iommu, other] = [(); 3].map(|()| File::open("/dev/zero").unwrap());
        let memfd: File = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC)
            .unwrap()
            .into();
        memfd.set_len(4096).unwrap();
        Held {
            device,
            iommu,
            other,
            memfd,
            folder: File::open("/dev").unwrap(),
        }
    }

    fn attempt(self, what: &str) -> i32 {
        match what {
            "map-memory" => outcome(map_shared(&self.memfd)),
            "read-device" => outcome(self.device.read_at(&mut [0], 0)),
            "read-at-another" => outcome(self.memfd.read_at(&mut [0], 0)),
            "replace-device" => replace(self.device, &self.other),
            "replace-another" => replace(self.other, &self.device),
            "open-node" => open_node(&self.folder, "null", OFlags::RDWR),
            "open-other-node" => open_node(&self.folder, "zero", OFlags::RDWR),
            "open-upwards" => open_node(&self.folder, "../etc/passwd", OFlags::RDWR),
            "create-node" => open_node(&self.folder, "null", OFlags::RDWR | OFlags::CREATE),
            "close-pinned" => {
                let number = self.iommu.as_raw_fd();
                drop(self.iommu);
                // Still taken: the next copy gets another number.
                let copy = rustix::io::fcntl_dupfd_cloexec(&self.other, number).unwrap();
                if copy.as_raw_fd() == number {
                    DONE
                } else {
                    REFUSED
                }
            }
            unknown => unreachable!("{unknown}"),
        }
    }
}

/// Puts a copy of another descriptor at the number of `at`.
fn replace(at: File, with: &File) -> i32 {
    let mut at = OwnedFd::from(at);
    outcome(rustix::io::dup3(with, &mut at, DupFlags::CLOEXEC))
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
        let (run, runs) = channel();
        std::thread::spawn(move || {
            run.send(()).unwrap();
            if wait.recv().is_ok() {
                // Small enough for the heap, and together more than it keeps at its end.
                let blocks: Vec<Vec<u8>> = (0..256).map(|_| vec![1; 64 << 10]).collect();
                drop(std::hint::black_box(blocks));
                end.send(()).unwrap();
            }
        });
        // What a thread does to begin (rseq) is not in the role's table: a program waits for its threads before it closes its filter.
        runs.recv().unwrap();
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
    let iommu = std::env::var("IOMMU").unwrap();
    let held = Held::open();
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let worker = Worker::start();
    let role = role(&iommu, &held.device, &held.iommu, &held.folder);
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
        on_descriptors => held.attempt(on_descriptors),
    };
    std::process::exit(status);
}

fn run(what: &str) -> ExitStatus {
    run_with("type1", what)
}

fn run_with(iommu: &str, what: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "attempt", "--test-threads=1"])
        .env("ATTEMPT", what)
        .env("IOMMU", iommu)
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

#[test]
fn guest_memory_is_mapped_with_type1_only() {
    assert_eq!(run_with("type1", "map-memory").code(), Some(DONE));
    assert_eq!(run_with("iommufd", "map-memory").signal(), Some(SIGSYS));
    assert_eq!(run_with("iommufd", "nothing").code(), Some(DONE));
}

#[test]
fn devices_are_read_at_their_own_number_only() {
    assert_eq!(run("read-device").code(), Some(DONE));
    assert_eq!(run("read-at-another").signal(), Some(SIGSYS));
}

#[test]
fn only_a_device_that_is_opened_anew_is_replaced_at_its_number() {
    assert_eq!(run("replace-device").signal(), Some(SIGSYS));
    for way in ["iommufd", "type1-once"] {
        assert_eq!(run_with(way, "replace-device").code(), Some(DONE), "{way}");
    }
    for way in ["iommufd", "type1-once"] {
        let replaced = run_with(way, "replace-another");
        assert_eq!(replaced.signal(), Some(SIGSYS), "{way}");
    }
}

#[test]
fn only_the_node_of_the_device_is_opened() {
    assert_eq!(run_with("iommufd", "open-node").code(), Some(DONE));
    for what in ["open-other-node", "open-upwards", "open"] {
        assert_eq!(run_with("iommufd", what).code(), Some(REFUSED), "{what}");
    }
    assert_eq!(run_with("iommufd", "create-node").signal(), Some(SIGSYS));
}
