use std::os::fd::AsFd;
use std::sync::mpsc::Receiver;
use std::thread;

use rustix::event::Timespec;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A supervisor that answers the next request as it is told.
fn pair() -> (Supervisor, ControlSocket) {
    let (theirs, ours) = ControlSocket::pair().unwrap();
    (Supervisor::start(&Threads::free(), ours).unwrap(), theirs)
}

fn next(socket: &ControlSocket) -> Request {
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "no request in time");
    match socket.receive(false).unwrap() {
        Received::Packet(packet, _) => Request::decode(&packet).unwrap(),
        other @ (Received::Empty | Received::Closed) => panic!("{other:?}"),
    }
}

fn target() -> Target {
    Target::Socket {
        path: "/run/x.sock".to_owned(),
    }
}

#[test]
fn attach_gives_the_socket_of_the_answer() {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || {
        let request = next(&theirs);
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let number = request.number();
        let reply = Reply::Attached { number };
        theirs.send(&reply.encode(), Some(reader.as_fd())).unwrap();
        request
    });
    supervisor.attach("net", target()).unwrap();
    assert_eq!(
        served.join().unwrap(),
        Request::Attach {
            number: 1,
            id: "net".to_owned(),
            target: target()
        }
    );
}

/// A supervisor that connects a device, and then says this of it, if anything.
fn connected(then: Option<fn(u32) -> Reply>) -> (Supervisor, ControlSocket, Opening) {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || {
        let number = next(&theirs).number();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let reply = Reply::Connected { number };
        theirs.send(&reply.encode(), Some(reader.as_fd())).unwrap();
        if let Some(then) = then {
            theirs.send(&then(number).encode(), None).unwrap();
        }
        theirs
    });
    let (_socket, opening) = supervisor.attach("net", target()).unwrap();
    let opening = opening.expect("it is not open yet");
    (supervisor, served.join().unwrap(), opening)
}

#[test]
fn device_that_is_connected_is_waited_for_until_it_is_attached() {
    let (_supervisor, _theirs, opening) = connected(Some(|number| Reply::Attached { number }));
    opening.wait().unwrap();
}

#[test]
fn device_that_is_connected_can_still_be_refused() {
    let refuse = |number| Reply::refused(number, "no reset");
    let (_supervisor, _theirs, opening) = connected(Some(refuse));
    assert_eq!(opening.wait().unwrap_err().to_string(), "no reset");
}

#[test]
fn device_that_is_connected_and_given_up_is_waited_for_by_nobody() {
    let (supervisor, _theirs, opening) = connected(None);
    assert_eq!(lock(&supervisor.waiting).by_number.len(), 1);
    drop(opening);
    assert!(lock(&supervisor.waiting).by_number.is_empty());
}

#[test]
fn refusal_is_told_in_the_words_of_the_supervisor() {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || {
        let request = next(&theirs);
        let reply = Reply::refused(request.number(), "not this one");
        theirs.send(&reply.encode(), None).unwrap();
    });
    let error = supervisor.attach("net", target()).unwrap_err();
    assert_eq!(error.to_string(), "not this one");
    served.join().unwrap();
}

/// Releases a device; what is told of it.
#[test]
fn image_comes_with_its_answer_and_is_closed_when_it_is_dropped() {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || {
        let request = next(&theirs);
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let number = request.number();
        let reply = Reply::Opened { number };
        theirs.send(&reply.encode(), Some(reader.as_fd())).unwrap();
        (request, next(&theirs))
    });
    let (_image, lease) = supervisor.open_image("/boot/vmlinuz").unwrap();
    drop(lease);
    let path = "/boot/vmlinuz".to_owned();
    let expected = (
        Request::OpenImage { number: 1, path },
        Request::CloseImage {
            number: 2,
            image: 1,
        },
    );
    assert_eq!(served.join().unwrap(), expected);
}

fn release(supervisor: &Supervisor, id: &str) -> Receiver<Release> {
    let (sender, told) = channel();
    supervisor.release(id, move |release| sender.send(release).unwrap());
    told
}

#[test]
fn answers_in_another_order_reach_who_waits_for_them() {
    let (supervisor, theirs) = pair();
    let told = ["a", "b"].map(|id| release(&supervisor, id));
    let [a, b] = [(); 2].map(|()| next(&theirs));
    let asked = |request: &Request, expected: &str| matches!(request, Request::Release { id, .. } if id == expected);
    assert!(asked(&a, "a") && asked(&b, "b"), "{a:?}, {b:?}");
    let held = Reply::held(b.number(), "b is stuck");
    theirs.send(&held.encode(), None).unwrap();
    let released = Reply::Released { number: a.number() };
    theirs.send(&released.encode(), None).unwrap();
    let [a_told, b_told] = told.map(|told| told.recv_timeout(PATIENCE).unwrap());
    assert_eq!(a_told, Release::Done);
    assert_eq!(b_told, Release::Held("b is stuck".to_owned()));
}

#[test]
fn release_that_is_held_is_told_again_when_it_is_done() {
    let (supervisor, theirs) = pair();
    let told = release(&supervisor, "a");
    let number = next(&theirs).number();
    for reply in [
        Reply::held(number, "it is stuck"),
        Reply::Released { number },
    ] {
        theirs.send(&reply.encode(), None).unwrap();
    }
    let both = [(); 2].map(|()| told.recv_timeout(PATIENCE).unwrap());
    assert_eq!(
        both,
        [Release::Held("it is stuck".to_owned()), Release::Done]
    );
}

#[test]
fn answer_of_another_request_about_the_same_device_is_not_taken() {
    let (supervisor, theirs) = pair();
    let first = release(&supervisor, "a");
    let number = next(&theirs).number();
    let refused = Reply::refused(number, "not now");
    theirs.send(&refused.encode(), None).unwrap();
    assert!(matches!(first.recv_timeout(PATIENCE), Ok(Release::Held(_))));
    let second = release(&supervisor, "a");
    let other = next(&theirs).number();
    for number in [number, other] {
        let reply = Reply::Released { number };
        theirs.send(&reply.encode(), None).unwrap();
    }
    assert_eq!(second.recv_timeout(PATIENCE), Ok(Release::Done));
    assert_eq!(
        first.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Disconnected),
        "it had its answer"
    );
}

#[test]
fn end_of_the_supervisor_ends_every_wait() {
    let (supervisor, theirs) = pair();
    let told = release(&supervisor, "net");
    drop((next(&theirs), theirs));
    let gone = |release| matches!(release, Ok(Release::Held(reason)) if reason.contains("the supervisor is gone"));
    assert!(gone(told.recv_timeout(PATIENCE)));
    let error = supervisor.attach("net", target()).unwrap_err();
    assert!(
        matches!(error, SupervisorError::Gone | SupervisorError::Send(_)),
        "{error}"
    );
    assert!(matches!(
        release(&supervisor, "net").recv_timeout(PATIENCE),
        Ok(Release::Held(_))
    ));
}
