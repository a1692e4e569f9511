//! VERSION from the client's side: the first message, and what of the answer can be agreed to.

use super::ClientConfig;
use super::engine::{Engine, Negotiated};
use super::error::{ClientError, LostCause};
use super::serve::Server;
use super::session::{Action, Event, Session, Socket, VERSION_ID};
use crate::frame::Frame;
use crate::header::{CommandCode, HeaderFlags};
use crate::limits;
use crate::messages::version::{Capabilities, TwinSocket, Version};
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;
use crate::transport::{
    Deadline, FrameReceiver, FrameSender, Outgoing, Patience, ReceiveLimits, StreamSocket, Wait,
};
use rustix::fs::fstat;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const VERSION: CommandCode = CommandCode::VERSION;

pub(super) fn connect(socket: OwnedFd, config: ClientConfig) -> Result<Engine, ClientError> {
    let deadline = Deadline::after(config.access_deadline);
    // A little less than the deadline, so that a read can block inside `recvmsg` and still be in time.
    let blocks_for = config
        .access_deadline
        .checked_mul(4)
        .and_then(|time| time.checked_div(5))
        .filter(|time| *time >= Duration::from_millis(1));
    let receive_limits = ReceiveLimits {
        max_message_bytes: limits::MAX_MESSAGE_BYTES,
        first_read_bytes: limits::FIRST_READ_REPLY_BYTES,
        message_deadline: config.access_deadline,
        blocks_for,
    };
    let socket = StreamSocket::new(socket, blocks_for).map_err(ClientError::Socket)?;
    let mut receiver = FrameReceiver::new(socket.clone(), receive_limits);
    let ours = proposal(&config);
    propose(&socket, &ours, deadline)?;
    let header = receiver.wait(Wait::Until(deadline)).map_err(|error| {
        let command = Some(VERSION);
        lost(Event::Receive { error, command })
    })?;
    let first = Event::Message {
        header,
        socket: Socket::Main,
        fds: receiver.fd_count(),
        awaited: true,
    };
    let (_, action) = Session::Proposed.on(first);
    if action != Action::Agree {
        return Err(lost(first));
    }
    let (server, twin) = accept(receiver.take(header), &ours, &socket)?;
    let twin = twin.map(|twin| {
        let limits = ReceiveLimits {
            blocks_for: None,
            ..receive_limits
        };
        (twin.clone(), FrameReceiver::new(twin, limits))
    });
    Engine::new(Negotiated {
        socket,
        receiver,
        twin,
        server,
        dma: Server::new(config.dma_handler),
        send_time: config.access_deadline,
    })
    .map_err(ClientError::Watch)
}

fn proposal(config: &ClientConfig) -> Capabilities {
    let twin_socket = if config.dma_handler.is_some() {
        TwinSocket::Supported
    } else {
        TwinSocket::Unsupported
    };
    Capabilities {
        twin_socket,
        migration: None,
        ..config.capabilities
    }
}

fn propose(
    socket: &StreamSocket,
    ours: &Capabilities,
    deadline: Deadline,
) -> Result<(), ClientError> {
    let mut head = Vec::new();
    Version {
        major: limits::VERSION_MAJOR,
        minor: limits::VERSION_MINOR,
        capabilities: *ours,
    }
    .encode(&mut head);
    let message = Outgoing {
        id: VERSION_ID,
        command: VERSION,
        flags: HeaderFlags::COMMAND,
        error: 0,
        head: &head,
        data: &[],
        fds: &[],
    };
    FrameSender::new(socket.clone())
        .send(&message, Patience::Until(deadline))
        .map_err(|error| {
            let command = VERSION;
            lost(Event::Send { error, command })
        })
}

/// The error of a connection that ends before it was agreed to.
fn lost(event: Event) -> ClientError {
    let (session, _) = Session::Proposed.on(event);
    ClientError::Lost(match session {
        Session::Lost(cause) => cause,
        // Only for an answer to VERSION, which is no reason.
        Session::Proposed | Session::Running { .. } => LostCause::Shutdown,
    })
}

/// What both sides can do, and the twin socket.
fn accept(
    frame: Frame<'_>,
    ours: &Capabilities,
    socket: &StreamSocket,
) -> Result<(Capabilities, Option<StreamSocket>), ClientError> {
    let header = frame.header;
    if header.flags.error() {
        return Err(ClientError::Refused {
            command: VERSION,
            errno: header.errno(),
        });
    }
    if frame.fds.len() > usize::try_from(ours.max_msg_fds).unwrap_or(usize::MAX) {
        return Err(bad(BadField::length(
            "number of file descriptors",
            frame.fds.len(),
        )));
    }
    let version = Version::decode_reply(frame.body).map_err(bad)?;
    let server = agree(&version, ours).map_err(bad)?;
    let twin = match server.twin_socket {
        TwinSocket::Fd(index) => Some(twin_socket(frame.fds, index, socket).map_err(bad)?),
        TwinSocket::Unsupported | TwinSocket::Supported => None,
    };
    Ok((server, twin))
}

fn bad(bad: BadField) -> ClientError {
    ClientError::BadAnswer {
        command: VERSION,
        bad,
    }
}

/// What the server announced; what we did not offer is left out.
fn agree(version: &Version, ours: &Capabilities) -> Result<Capabilities, BadField> {
    if version.major != limits::VERSION_MAJOR {
        return Err(BadField::invalid("major", version.major));
    }
    if version.minor > limits::VERSION_MINOR {
        return Err(BadField::invalid("minor", version.minor));
    }
    let server = version.capabilities;
    if server.pgsizes & limits::PAGE_BYTES == 0 {
        return Err(BadField::invalid("pgsizes", server.pgsizes));
    }
    if server.max_dma_maps == 0 {
        return Err(BadField::invalid("max_dma_maps", server.max_dma_maps));
    }
    let twin_socket = match ours.twin_socket {
        TwinSocket::Supported => server.twin_socket,
        TwinSocket::Unsupported | TwinSocket::Fd(_) => TwinSocket::Unsupported,
    };
    Ok(Capabilities {
        twin_socket,
        write_multiple: server.write_multiple && ours.write_multiple,
        ..server
    })
}

fn twin_socket(
    mut fds: Vec<ReceivedFd>,
    index: u32,
    main: &StreamSocket,
) -> Result<StreamSocket, BadField> {
    let bad = BadField::invalid("fd_index", index);
    let index = usize::try_from(index).map_err(|_| bad)?;
    if index >= fds.len() {
        return Err(bad);
    }
    let twin = StreamSocket::new(fds.swap_remove(index), None)
        .map_err(|_| BadField::invalid("twin socket (no Unix stream socket)", 0u32))?;
    let inode = |socket: &StreamSocket| fstat(socket.as_fd()).map(|stat| stat.st_ino).ok();
    if inode(&twin) == inode(main) {
        return Err(BadField::invalid(
            "twin socket (the main socket itself)",
            0u32,
        ));
    }
    Ok(twin)
}
