//! What a VMM asks over its control socket, against the policy.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use protocol::supervisor::{ControlSocket, Reply, Request, Target};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal};
use sandbox::prepare::Child;

use super::super::images::Images;
use super::super::*;
use super::servers::{release, with_vmm};
use super::{Scratch, receive, watch};

#[test]
fn requests_of_the_vmm_meet_the_policy() {
    let scratch = Scratch::new("requests");
    let path = scratch.path("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut config = scratch.config(Vec::new());
    let text = format!(
        "vfio-user-pci,socket={},id=net,bus=pcie.0,addr=0x3",
        path.display()
    );
    config.devices.push(DeviceConfig::parse(&text).unwrap());
    let watch = watch(Policy::from_config(&config));
    let (control, vmm_control) = ControlSocket::pair().unwrap();
    let vmm_control = ControlSocket::from(vmm_control);
    let vmm = Child::new("/bin/sleep", vec!["60".into()]).spawn().unwrap();
    let pid = Pid::from_raw(vmm.pid()).unwrap();
    let attach = move |id: &str, path: &str| {
        let request = Request::Attach {
            number: 3,
            id: id.into(),
            target: Target::Socket { path: path.into() },
        };
        vmm_control.send(&request.encode(), None).unwrap();
        receive(&vmm_control)
    };
    let requests = std::thread::spawn(move || {
        let allowed = attach("a", path.to_str().unwrap());
        let twice = attach("a", path.to_str().unwrap());
        let other = attach("b", "/run/docker.sock");
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        (allowed, twice, other)
    });

    watch.until_end(vmm, Control::new(control)).unwrap();

    let (allowed, twice, other) = requests.join().unwrap();
    assert_eq!(allowed.0, Reply::Attached { number: 3 });
    assert!(allowed.1.is_some());
    listener.accept().unwrap();
    assert!(matches!(twice.0, Reply::Refused { reason, .. } if reason.contains("id a is in use")));
    assert!(
        matches!(other.0, Reply::Refused { reason, .. } if reason.contains("-device-policy allow-socket="))
    );
    assert!(other.1.is_none());
}

#[test]
fn server_without_room_keeps_nobody_else_waiting_and_is_refused_in_time() {
    let scratch = Scratch::new("full");
    let path = scratch.path("x.sock");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut config = scratch.config(Vec::new());
    config.policy.push(PolicyRule::Socket(path.clone()));
    let watch = watch(Policy::from_config(&config));
    let path = path.display().to_string();
    let (_, (first, second, took)) = with_vmm(watch, move |control| {
        let attach = Request::Attach {
            number: 1,
            id: "net".into(),
            target: Target::Socket { path },
        };
        control.send(&attach.encode(), None).unwrap();
        let start = Instant::now();
        release(&control, 2, "other");
        let first = receive(&control).0;
        let took = start.elapsed();
        (first, receive(&control).0, took)
    });
    assert_eq!(first, Reply::Released { number: 2 });
    assert!(took < deadline::CONNECT, "{took:?}");
    assert!(
        matches!(&second, Reply::Refused { number: 1, reason } if reason.contains("takes no connection")),
        "{second:?}"
    );
}

#[test]
fn vmm_has_no_more_sockets_than_it_may_have() {
    let scratch = Scratch::new("sockets");
    let path = scratch.path("x.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut config = scratch.config(Vec::new());
    config.policy.push(PolicyRule::Socket(path.clone()));
    let mut watch = watch(Policy::from_config(&config));
    for number in 0..deadline::MAX_SOCKETS {
        watch.attachments.add_socket(format!("d{number}"));
    }
    let request = Request::Attach {
        number: 1,
        id: "one-more".into(),
        target: Target::Socket {
            path: path.display().to_string(),
        },
    };
    let outcome = watch.attachments.answer(&mut watch.servers, request);
    let text = format!("{outcome:?}");
    assert!(text.contains("as many as it may have"), "{text}");
}

fn open(control: &ControlSocket, number: u32, path: &str) -> (Reply, Option<OwnedFd>) {
    let path = path.to_owned();
    let request = Request::OpenImage { number, path };
    control.send(&request.encode(), None).unwrap();
    receive(control)
}

#[test]
fn images_of_the_command_line_and_of_the_policy_are_lent_and_no_others() {
    let scratch = Scratch::new("images");
    let mut config = scratch.config(Vec::new());
    config.kernel = scratch.path("kernel");
    let [kernel, next, other] = ["kernel", "next", "other"].map(|name| scratch.path(name));
    for path in [&next, &other] {
        std::fs::write(path, "next").unwrap();
    }
    config.policy.push(PolicyRule::Image(next.clone()));
    let mut watch = watch(Policy::from_config(&config));
    let program = scratch.programs("echo read >>log; cat \"$2\" >&3").vmm;
    watch.attachments.images = Images::new(program, 64 << 20);
    let [kernel, next, other] = [kernel, next, other].map(|path| path.display().to_string());
    let refused_path = other.clone();
    let (_, (kernel, next, other, dots)) = with_vmm(watch, move |control| {
        (
            open(&control, 1, &kernel),
            open(&control, 2, &next),
            open(&control, 3, &other),
            open(&control, 4, &format!("{next}/../other")),
        )
    });
    for ((reply, copy), number, expected) in [(kernel, 1, "kernel"), (next, 2, "next")] {
        assert_eq!(reply, Reply::Opened { number });
        let mut copy = File::from(copy.unwrap());
        let mut content = String::new();
        copy.seek(SeekFrom::Start(0)).unwrap();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, expected);
    }
    let remedy = format!("-device-policy allow-image={refused_path}");
    assert!(
        matches!(&other, (Reply::Refused { number: 3, reason }, None) if reason.ends_with(&remedy)),
        "{other:?}"
    );
    assert!(
        matches!(&dots, (Reply::Refused { number: 4, .. }, None)),
        "{dots:?}"
    );
    // Nobody looked at what was refused.
    let log = std::fs::read_to_string(scratch.path("log")).unwrap();
    assert_eq!(log, "read\nread\n");
}
