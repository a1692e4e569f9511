//! Stands between a VMM and a device server: hands requests on, and answers what a test makes of the server's replies.
//!
//! One request at a time. A twin socket goes through with its reply and is not seen. Where the server asks on the
//! main socket, its requests and their answers go through as they are.
//! Limits: one client.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::deadline::PROCESS;
use crate::raw_message::RawMessage;
use crate::raw_peer::fuse;

/// What the VMM is sent.
#[derive(Debug)]
pub enum Step {
    Send(RawMessage),
    /// With a descriptor beside its own that is not closed here.
    SendWith(RawMessage, Arc<fuse::Held>),
    /// One byte at a time, with pauses.
    Trickle(Vec<u8>, Duration),
    Wait(Duration),
    Close,
    /// Nothing any more, and the connection stays open until the VMM closes it.
    Silence,
}

/// What a test does to a session.
pub trait Bend: Send + 'static {
    /// Before a request goes on to the server.
    fn request(&mut self, _request: &mut RawMessage) -> Result<()> {
        Ok(())
    }

    /// What comes instead of `reply`.
    fn reply(&mut self, request: &RawMessage, reply: RawMessage) -> Result<Vec<Step>>;
}

impl<F: FnMut(&RawMessage, RawMessage) -> Result<Vec<Step>> + Send + 'static> Bend for F {
    fn reply(&mut self, request: &RawMessage, reply: RawMessage) -> Result<Vec<Step>> {
        self(request, reply)
    }
}

/// Listens on `socket` for one client, and connects it to `server`.
pub fn between(socket: &str, server: &str, mut bend: impl Bend) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket}"))?;
    let server = UnixStream::connect(server).with_context(|| format!("connect to {server}"))?;
    std::thread::spawn(move || {
        if let Ok((client, _)) = listener.accept() {
            // Whichever side closes ends the session; both sockets are dropped here.
            let _ = session(&client, &server, &mut bend);
        }
    });
    Ok(())
}

fn session(client: &UnixStream, server: &UnixStream, bend: &mut impl Bend) -> Result<()> {
    loop {
        let mut request = RawMessage::receive(client)?;
        bend.request(&mut request)?;
        request.send(server)?;
        if request.wants_no_reply() {
            continue;
        }
        let reply = loop {
            let message = RawMessage::receive(server)?;
            if !message.is_request() {
                break message;
            }
            message.send(client)?;
            RawMessage::receive(client)?.send(server)?;
        };
        for step in bend.reply(&request, reply)? {
            match step {
                Step::Send(message) => message.send(client)?,
                Step::SendWith(message, file) => message.send_with(client, &[file.as_fd()])?,
                Step::Trickle(bytes, pause) => trickle(client, &bytes, pause)?,
                Step::Wait(time) => std::thread::sleep(time),
                Step::Close => return Ok(()),
                Step::Silence => return until_closed(client),
            }
        }
    }
}

fn trickle(client: &UnixStream, bytes: &[u8], pause: Duration) -> Result<()> {
    for byte in bytes {
        let message = RawMessage {
            bytes: vec![*byte],
            fds: Vec::new(),
        };
        message.send(client)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

fn until_closed(client: &UnixStream) -> Result<()> {
    let limit = Timespec::try_from(PROCESS)?;
    let mut closed = [PollFd::new(client, PollFlags::HUP)];
    poll(&mut closed, Some(&limit))?;
    Ok(())
}
