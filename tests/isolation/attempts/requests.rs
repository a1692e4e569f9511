//! Requests to the supervisor, on the control socket of a VMM: more than it may have, more often than it may ask, and not whole.
//!
//! Without a layer a process is at the other end that does all it is asked (`other_end`).

use std::io;
use std::time::{Duration, Instant};

use protocol::supervisor::{ControlError, Received, Reply, Request, Target};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{ATTACH, Attempt, Scene, VCPU};
use crate::layers::Layer::Supervisor;
use crate::role::Role;

const VMM: &[Role] = &[VCPU, ATTACH];
const REQUESTS: u32 = 100_000;
/// For an answer. One that asks too often waits for half of the supervisor's window and gives up.
const ANSWER: Duration = Duration::from_secs(5);
const STALLED: Duration = Duration::from_millis(500);

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("a socket beyond the policy", other_socket, &[Supervisor]).only(VMM),
    Attempt::new("a host device beyond the policy", other_host, &[Supervisor]).only(VMM),
    Attempt::new("an image beyond the policy", other_image, &[Supervisor]).only(VMM),
    Attempt::new("100,000 requests at once", flood, &[Supervisor]).only(VMM),
    Attempt::new("a request in two halves", halves, &[Supervisor]).only(VMM),
];

fn socket(scene: &Scene, number: u32) -> Request {
    Request::Attach {
        number,
        id: "more".to_owned(),
        target: Target::Socket {
            path: scene.target.socket_file.clone(),
        },
    }
}

fn other_socket(scene: &Scene) -> io::Result<()> {
    send(scene, &socket(scene, 1).encode())?;
    given(scene)
}

/// The first of any machine, its host bridge.
fn other_host(scene: &Scene) -> io::Result<()> {
    let request = br#"{"attach":{"number":1,"id":"more","host":"0000:00:00.0"}}"#;
    send(scene, request)?;
    given(scene)
}

/// A file that anybody can read, where there is a file system.
fn other_image(scene: &Scene) -> io::Result<()> {
    let request = Request::OpenImage {
        number: 1,
        path: "/etc/passwd".to_owned(),
    };
    send(scene, &request.encode())?;
    given(scene)
}

fn halves(scene: &Scene) -> io::Result<()> {
    let request = socket(scene, 1).encode();
    let (first, second) = request.split_at(request.len() / 2);
    send(scene, first)?;
    send(scene, second)?;
    given(scene)
}

fn flood(scene: &Scene) -> io::Result<()> {
    let control = &scene.held.control;
    for number in 0..REQUESTS {
        let request = Request::Release {
            number,
            id: "none".to_owned(),
        };
        let packet = request.encode();
        let mut last_taken = Instant::now();
        while let Err(error) = control.send(&packet, None) {
            if !matches!(error, ControlError::Full) {
                return Err(io::Error::other(error));
            }
            if last_taken.elapsed() > STALLED {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // What was answered is taken, so that it is not this side that stalls.
            if wait(scene, PollFlags::IN, Duration::from_millis(1))? && answer(scene)?.is_some() {
                last_taken = Instant::now();
            }
        }
        while answer(scene)?.is_some() {}
    }
    Ok(())
}

/// A supervisor that has left the conversation cannot be asked any more.
fn send(scene: &Scene, packet: &[u8]) -> io::Result<()> {
    scene
        .held
        .control
        .send(packet, None)
        .map_err(io::Error::other)
}

/// Whether the answer is a device, or an image. No answer at all does not count as a refusal.
fn given(scene: &Scene) -> io::Result<()> {
    if !wait(scene, PollFlags::IN, ANSWER)? {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    match answer(scene)? {
        Some(Reply::Attached { .. } | Reply::Connected { .. } | Reply::Opened { .. }) => Ok(()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// An answer that is there; none if there is none yet. The end of the conversation is an error.
fn answer(scene: &Scene) -> io::Result<Option<Reply>> {
    match scene.held.control.receive(true).map_err(io::Error::other)? {
        Received::Packet(packet, _) => Reply::decode(&packet).map(Some).map_err(io::Error::other),
        Received::Empty => Ok(None),
        Received::Closed => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

fn wait(scene: &Scene, what: PollFlags, limit: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut polled = [PollFd::new(&scene.held.control, what)];
    Ok(rustix::event::poll(&mut polled, Some(&timeout))? > 0)
}
