use std::os::fd::AsFd;
use std::thread;

use rustix::event::Timespec;

use super::*;

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
        let id = request.id().to_owned();
        let reply = Reply::Attached { id };
        theirs.send(&reply.encode(), Some(reader.as_fd())).unwrap();
        request
    });
    supervisor.attach("net", target()).unwrap();
    assert_eq!(
        served.join().unwrap(),
        Request::Attach {
            id: "net".to_owned(),
            target: target()
        }
    );
}

#[test]
fn refusal_is_told_in_the_words_of_the_supervisor() {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || {
        let request = next(&theirs);
        let reply = Reply::refused(request.id(), "not this one");
        theirs.send(&reply.encode(), None).unwrap();
    });
    let error = supervisor.attach("net", target()).unwrap_err();
    assert_eq!(error.to_string(), "not this one");
    served.join().unwrap();
}

#[test]
fn answers_in_another_order_reach_who_waits_for_them() {
    let (supervisor, theirs) = pair();
    let supervisor = Arc::new(supervisor);
    let waiting: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|id| {
            let supervisor = Arc::clone(&supervisor);
            thread::spawn(move || supervisor.release(id))
        })
        .collect();
    let ids = [(); 2].map(|()| next(&theirs).id().to_owned());
    for id in ids.into_iter().rev() {
        theirs.send(&Reply::Released { id }.encode(), None).unwrap();
    }
    for thread in waiting {
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn end_of_the_supervisor_ends_every_wait() {
    let (supervisor, theirs) = pair();
    let served = thread::spawn(move || drop((next(&theirs), theirs)));
    let error = supervisor.release("net").unwrap_err();
    assert!(matches!(error, SupervisorError::Gone), "{error}");
    served.join().unwrap();
    let error = supervisor.release("net").unwrap_err();
    assert!(
        matches!(error, SupervisorError::Gone | SupervisorError::Send(_)),
        "{error}"
    );
}
