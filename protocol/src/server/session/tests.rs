//! Every state with every event.

use super::*;

fn version(major: u16, minor: u16, capabilities: Capabilities) -> SessionEvent {
    SessionEvent::Version {
        version: Version {
            major,
            minor,
            capabilities,
        },
        no_reply: false,
    }
}

fn refused(close: bool) -> Refusal {
    let bad = BadField::invalid("argsz", 3u32);
    Refusal {
        close,
        ..Refusal::new(CommandCode::DMA_MAP, bad)
    }
}

fn on(session: Session, event: SessionEvent) -> (Session, SessionAction) {
    session.on(event, &Capabilities::OURS)
}

fn negotiated() -> Session {
    let (session, action) = on(
        Session::BeforeVersion,
        version(0, 1, Capabilities::UNSTATED),
    );
    assert!(matches!(action, SessionAction::Agree(_)));
    session
}

#[test]
fn before_version_everything_else_ends_the_connection() {
    let no_reply = SessionEvent::Version {
        version: Version {
            major: 0,
            minor: 0,
            capabilities: Capabilities::UNSTATED,
        },
        no_reply: true,
    };
    let request = SessionEvent::Request(CommandCode::REGION_READ);
    let reply = SessionEvent::Reply(CommandCode::REGION_READ);
    for (event, answered) in [
        (request, true),
        (SessionEvent::Refused(refused(false)), true),
        (version(1, 0, Capabilities::UNSTATED), true),
        (no_reply, false),
        (reply, false),
    ] {
        let (session, action) = on(Session::BeforeVersion, event);
        assert_eq!(session, Session::Closed);
        let told = matches!(action, SessionAction::Refuse(refusal) if refusal.close);
        assert_eq!(told, answered, "{action:?}");
    }
}

#[test]
fn after_version_only_a_reply_ends_the_connection() {
    let session = negotiated();
    let request = SessionEvent::Request(CommandCode::REGION_READ);
    assert_eq!(on(session, request), (session, SessionAction::Dispatch));
    let refusal = SessionEvent::Refused(refused(true));
    let open = SessionAction::Refuse(refused(false));
    assert_eq!(on(session, refusal), (session, open));
    let (same, action) = on(session, version(0, 0, Capabilities::UNSTATED));
    assert_eq!(same, session);
    assert!(matches!(action, SessionAction::Refuse(refusal) if !refusal.close));
    let (closed, action) = on(session, SessionEvent::Reply(CommandCode::DMA_READ));
    assert_eq!(closed, Session::Closed);
    assert!(matches!(action, SessionAction::Close(_)));
}

#[test]
fn closed_stays_closed() {
    for event in [
        version(0, 0, Capabilities::UNSTATED),
        SessionEvent::Request(CommandCode::DEVICE_RESET),
        SessionEvent::Refused(refused(false)),
        SessionEvent::Reply(CommandCode::DMA_READ),
    ] {
        let (session, action) = on(Session::Closed, event);
        assert_eq!(session, Session::Closed);
        assert!(matches!(action, SessionAction::Close(_)));
    }
}

#[test]
fn agreement_is_what_both_sides_have() {
    let ours = Capabilities {
        twin_socket: TwinSocket::Supported,
        ..Capabilities::OURS
    };
    let client = Capabilities {
        max_msg_fds: 3,
        max_data_xfer_size: 512,
        max_dma_maps: 10,
        pgsizes: 0x20_1000,
        twin_socket: TwinSocket::Supported,
        write_multiple: false,
        migration: None,
    };
    let (session, _) = Session::BeforeVersion.on(version(0, 7, client), &ours);
    let Session::Negotiated(agreement) = session else {
        panic!("not negotiated: {session:?}");
    };
    let reply = agreement.reply;
    assert_eq!((reply.major, reply.minor), (0, limits::VERSION_MINOR));
    assert_eq!(reply.capabilities.max_msg_fds, limits::MAX_MSG_FDS);
    assert_eq!(reply.capabilities.max_dma_maps, 10);
    assert_eq!(reply.capabilities.pgsizes, 4096);
    assert_eq!(reply.capabilities.twin_socket, TwinSocket::Supported);
    assert!(!reply.capabilities.write_multiple && !agreement.context.write_multiple);
    assert_eq!(agreement.context.peer_max_data_xfer_size, 512);
    let no_fds = Capabilities {
        max_msg_fds: 0,
        ..client
    };
    let (session, _) = Session::BeforeVersion.on(version(0, 7, no_fds), &ours);
    assert!(matches!(session, Session::Negotiated(agreement)
        if agreement.reply.capabilities.twin_socket == TwinSocket::Unsupported));
}
