use super::*;
use crate::header::HeaderFlags;
use rustix::io::Errno;

const RUNNING: [Session; 2] = [
    Session::Running { twin: false },
    Session::Running { twin: true },
];

fn header(command: CommandCode, flags: HeaderFlags) -> Header {
    Header {
        id: VERSION_ID,
        command,
        size: 16,
        flags,
        error: 0,
    }
}

fn message(header: Header, socket: Socket, fds: usize, awaited: bool) -> Event {
    Event::Message {
        header,
        socket,
        fds,
        awaited,
    }
}

fn lost(session: Session, event: Event) -> LostCause {
    let (next, action) = session.on(event);
    let Action::Lose(cause) = action else {
        panic!("{session:?} should be lost by {event:?}");
    };
    assert_eq!(next, Session::Lost(cause));
    cause
}

fn endings() -> Vec<(Event, LostCause)> {
    let command = CommandCode::REGION_READ;
    let late = LostCause::Deadline { command };
    let receive = |error| Event::Receive {
        error,
        command: Some(command),
    };
    let stalled = RecvError::Stalled { received: 1 };
    let send = |error| Event::Send { error, command };
    vec![
        (Event::Shutdown, LostCause::Shutdown),
        (Event::Late { command }, late),
        (receive(RecvError::Deadline), late),
        (receive(stalled), late),
        (
            Event::Receive {
                error: stalled,
                command: None,
            },
            LostCause::Receive(stalled),
        ),
        (receive(RecvError::Closed), LostCause::Closed),
        (
            receive(RecvError::FdsLost),
            LostCause::Receive(RecvError::FdsLost),
        ),
        (send(SendError::Deadline), late),
        (send(SendError::Closed), LostCause::Closed),
        (
            send(SendError::Io(Errno::IO)),
            LostCause::Send {
                command,
                error: SendError::Io(Errno::IO),
            },
        ),
    ]
}

#[test]
fn every_ending_loses_every_state_and_the_first_cause_stays() {
    for session in [Session::Proposed].iter().chain(&RUNNING) {
        for (event, cause) in endings() {
            assert_eq!(lost(*session, event), cause);
            for (later, _) in endings() {
                assert_eq!(lost(Session::Lost(cause), later), cause);
            }
        }
    }
}

#[test]
fn lost_session_takes_no_message() {
    let session = Session::Lost(LostCause::Closed);
    for flags in [HeaderFlags::COMMAND, HeaderFlags::REPLY] {
        let header = header(CommandCode::REGION_READ, flags);
        for socket in [Socket::Main, Socket::Twin] {
            let event = message(header, socket, 0, true);
            assert_eq!(lost(session, event), LostCause::Closed);
        }
    }
}

#[test]
fn t22_first_message_is_the_answer_to_version_or_the_end() {
    let version = header(CommandCode::VERSION, HeaderFlags::REPLY);
    let refused = header(CommandCode::VERSION, HeaderFlags::REPLY_ERROR);
    for answer in [version, refused] {
        let (next, action) = Session::Proposed.on(message(answer, Socket::Main, 1, false));
        assert_eq!(
            (next, action),
            (Session::Running { twin: false }, Action::Agree)
        );
    }
    let wrong_id = Header {
        id: MessageId(1),
        ..version
    };
    let request = header(CommandCode::DMA_READ, HeaderFlags::COMMAND);
    let other = header(CommandCode::REGION_READ, HeaderFlags::REPLY);
    for first in [wrong_id, request, other] {
        let event = message(first, Socket::Main, 0, true);
        let LostCause::Protocol { command, .. } = lost(Session::Proposed, event) else {
            panic!("the server broke a rule");
        };
        assert_eq!(command, first.command);
    }
}

#[test]
fn t20_t21_requests_and_answers_come_on_their_own_sockets() {
    let request = header(CommandCode::DMA_READ, HeaderFlags::COMMAND);
    let answer = header(CommandCode::REGION_READ, HeaderFlags::REPLY);
    let [alone, with_twin] = RUNNING;
    let on = |session: Session, header, socket| session.on(message(header, socket, 0, true));
    assert_eq!(on(alone, request, Socket::Main), (alone, Action::Serve));
    assert_eq!(
        on(with_twin, request, Socket::Twin),
        (with_twin, Action::Serve)
    );
    for session in RUNNING {
        assert_eq!(
            on(session, answer, Socket::Main),
            (session, Action::Deliver)
        );
    }
    for (header, socket) in [(request, Socket::Main), (answer, Socket::Twin)] {
        let cause = lost(with_twin, message(header, socket, 0, true));
        assert!(matches!(cause, LostCause::Protocol { .. }));
    }
}

#[test]
fn s15_s23_answers_to_nothing_and_too_many_descriptors_lose_the_device() {
    let answer = header(CommandCode::REGION_READ, HeaderFlags::REPLY);
    for session in RUNNING {
        let to_nothing = message(answer, Socket::Main, 0, false);
        let too_many = message(answer, Socket::Main, 17, true);
        for event in [to_nothing, too_many] {
            assert!(matches!(lost(session, event), LostCause::Protocol { .. }));
        }
        let most = message(answer, Socket::Main, 16, true);
        assert_eq!(session.on(most), (session, Action::Deliver));
    }
}
