//! Metrics in the OpenMetrics text format, for whoever may connect to a Unix socket.
//!
//! OpenMetrics 1.0, "Protocol": HTTP, so that `curl --unix-socket PATH http://localhost/metrics` and agents that scrape
//! Unix sockets work. Connections are served one after another, a request each.
//! Not here: the socket's file and its mode, and what is counted.
//! Limits: `MAX_REQUEST_BYTES`; `PATIENCE` for a whole connection, so a client can delay others by that.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};

/// Longest request, in bytes. Agents send a few headers.
const MAX_REQUEST_BYTES: usize = 4096;
/// How long a client may take to ask and to read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be accepted, or while none may come.
const RETRY: Duration = Duration::from_millis(200);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The path in `unix:PATH`.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        Some(_) | None => Err(format!(
            "{text}: write unix:PATH, a socket that is made there"
        )),
    }
}

/// Answers on a listening socket with what a registry holds.
#[derive(Debug)]
pub struct Exporter {
    listener: OwnedFd,
    registry: Registry,
    clients: Clients,
}

/// What reads from a client without waiting, and closes what it sends beside bytes.
pub trait Stream: Read + AsFd {}

impl<T: Read + AsFd> Stream for T {}

/// How clients are let in.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// Whether one may come now; those that come meanwhile wait.
    pub may_come: fn() -> bool,
    /// Takes the connected socket of one.
    pub adopt: fn(OwnedFd) -> Box<dyn Stream>,
}

/// A connection that is over before its request is answered.
#[derive(Debug)]
enum Ended {
    /// The process is told to stop.
    Stop,
    /// It left, was too slow, or talks something else.
    Client,
}

impl Exporter {
    /// `listener` is a Unix stream socket that listens.
    pub fn new(
        listener: OwnedFd,
        registry: Registry,
        clients: Clients,
    ) -> std::io::Result<Exporter> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Exporter {
            listener,
            registry,
            clients,
        })
    }

    /// Serves until `stop` is readable.
    pub fn serve(&self, stop: impl AsFd) {
        let stop = stop.as_fd();
        while wait(self.listener.as_fd(), PollFlags::IN, stop, None).is_ok() {
            if !(self.clients.may_come)() {
                pause(stop);
                continue;
            }
            match self.accept() {
                Ok(mut client) => {
                    if matches!(self.answer(&mut *client, stop), Err(Ended::Stop)) {
                        return;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "A client of the metrics is not accepted");
                    pause(stop);
                }
            }
        }
    }

    fn accept(&self) -> Result<Box<dyn Stream>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(&self.listener, flags).map(self.clients.adopt)
    }

    fn answer(&self, client: &mut dyn Stream, stop: BorrowedFd<'_>) -> Result<(), Ended> {
        let give_up = Instant::now().checked_add(PATIENCE);
        let request = receive(client, stop, give_up)?;
        let (status, body) = if is_for_metrics(&request) {
            let mut body = String::new();
            encode(&mut body, &self.registry).map_err(|_| Ended::Client)?;
            ("200 OK", body)
        } else {
            (
                "404 Not Found",
                "only GET /metrics is answered\n".to_owned(),
            )
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        send(client.as_fd(), (head + &body).as_bytes(), stop, give_up)
    }
}

/// The head of the request, as far as the empty line.
fn receive(
    client: &mut dyn Stream,
    stop: BorrowedFd<'_>,
    give_up: Option<Instant>,
) -> Result<Vec<u8>, Ended> {
    let mut request = Vec::new();
    let mut buffer = [0; MAX_REQUEST_BYTES];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST_BYTES {
            return Err(Ended::Client);
        }
        wait(client.as_fd(), PollFlags::IN, stop, give_up)?;
        match client.read(&mut buffer) {
            Ok(0) => return Err(Ended::Client),
            Ok(length) => request.extend(buffer.iter().take(length)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Ended::Client),
        }
    }
    Ok(request)
}

fn is_for_metrics(request: &[u8]) -> bool {
    request.starts_with(b"GET /metrics ") || request.starts_with(b"GET / ")
}

fn send(
    client: BorrowedFd<'_>,
    mut text: &[u8],
    stop: BorrowedFd<'_>,
    give_up: Option<Instant>,
) -> Result<(), Ended> {
    while !text.is_empty() {
        match rustix::net::send(client, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => text = text.get(length..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(client, PollFlags::OUT, stop, give_up)?,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Ended::Client),
        }
    }
    Ok(())
}

/// Before the next try, or until `stop` is readable.
fn pause(stop: BorrowedFd<'_>) {
    let end = Instant::now().checked_add(RETRY);
    // Only the end of the wait matters: nothing else is looked at.
    let _ = wait(stop, PollFlags::IN, stop, end);
}

/// Waits for `fd`, at most until `give_up`.
fn wait(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    stop: BorrowedFd<'_>,
    give_up: Option<Instant>,
) -> Result<(), Ended> {
    loop {
        let left = give_up.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut poll = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(fd, flags),
        ];
        match rustix::event::poll(&mut poll, timeout.as_ref()) {
            Ok(0) => return Err(Ended::Client),
            Err(Errno::INTR) => {}
            Err(_) => return Err(Ended::Stop),
            Ok(_) => {
                let [stop, _] = &poll;
                return if stop.revents().is_empty() {
                    Ok(())
                } else {
                    Err(Ended::Stop)
                };
            }
        }
    }
}

#[cfg(test)]
mod tests;
