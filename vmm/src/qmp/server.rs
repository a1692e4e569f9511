//! The QMP sockets: who is connected, and the two threads that serve them.
//!
//! One thread waits for sockets and never runs a command. Two threads run commands, one after another in the order they
//! came: one those that ask a device server or for a file (a `device_add` may take more than a minute), one all others, so that
//! nobody's `quit` waits for somebody's device. The commands of one client never overtake each other. Events may come from any
//! thread: they are queued and sent as far as the socket takes them without waiting, so no client can delay the machine.
//! A client that closes its sending side is still answered (`echo ... | socat`), then dropped.
//! Limits: [`MAX_CLIENTS`]; commands per second (`pace.rs`); per client those of `connection.rs`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use protocol::closing::is_full;
use protocol::transport::ByteStream;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};

use super::commands::{self, Context};
use super::connection::Connection;
use super::envelope::Request;
use super::events::Event;
use super::pace::Pace;
use crate::event_loop::{EventLoop, Interest, Token};
use crate::threads::{Kind, Threads};

#[cfg(test)]
mod tests;

/// Clients at once. More are closed after they are accepted.
pub const MAX_CLIENTS: usize = 16;
/// Before the next try where a client cannot be accepted, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes taken from a socket at once.
const READ_BYTES: usize = 4096;

/// The server; dropping it does not end its threads, the process does.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    events: EventLoop,
    quick: Sender<(ClientId, Request)>,
    slow: Sender<(ClientId, Request)>,
    clients: Mutex<Clients>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ClientId(u64);

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    /// The last try failed, and the operator was told.
    cannot_accept: bool,
    by_id: BTreeMap<ClientId, Client>,
}

#[derive(Debug)]
struct Client {
    socket: Arc<ByteStream>,
    connection: Connection,
    reading: Reading,
    registration: Option<(Token, Interest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    Ended,
}

impl Server {
    /// A server without sockets or threads: what sends events can be given it before there is a machine to command.
    pub fn new() -> io::Result<(Server, CommandQueues)> {
        let (quick, quick_steps) = channel();
        let (slow, slow_steps) = channel();
        let clients = Mutex::new(Clients::default());
        let shared = Arc::new(Shared {
            events: EventLoop::new()?,
            quick,
            slow,
            clients,
        });
        let server = Server { shared };
        Ok((
            server,
            CommandQueues {
                quick: quick_steps,
                slow: slow_steps,
            },
        ))
    }

    /// Starts the threads that serve clients and run their commands. They live as long as the process.
    pub fn start(
        &self,
        threads: &Threads,
        queues: CommandQueues,
        context: Context,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let serve = move || {
            if let Err(error) = shared.events.run() {
                tracing::error!(%error, "QMP clients are served no longer");
            }
        };
        threads.start(Kind::Qmp, "qmp", serve)?;
        for (name, queue) in [("qmp-commands", queues.quick), ("qmp-devices", queues.slow)] {
            let (shared, context) = (Arc::clone(&self.shared), context.clone());
            let run = move || shared.run_commands(&queue, &context);
            threads.start(Kind::QmpCommands, name, run)?;
        }
        Ok(())
    }

    /// Takes clients on these listening sockets.
    pub fn listen(&self, listeners: Vec<OwnedFd>) -> io::Result<()> {
        for listener in listeners {
            let listener = Arc::new(listener);
            let (shared, fd) = (Arc::clone(&self.shared), Arc::clone(&listener));
            let accept = move |_: &EventLoop| shared.accept(&fd);
            self.shared
                .events
                .add(listener, Interest::Readable, Arc::new(accept))?;
        }
        Ok(())
    }

    /// Sends an event to every client.
    pub fn send(&self, event: &Event) {
        let event = event.to_json(SystemTime::now());
        let mut clients = self.shared.lock();
        for client in clients.by_id.values_mut() {
            client.connection.event(&event);
        }
        let ids: Vec<ClientId> = clients.by_id.keys().copied().collect();
        for id in ids {
            self.shared.settle(&mut clients, id);
        }
    }
}

/// The commands that wait for the two threads that run them.
#[derive(Debug)]
pub struct CommandQueues {
    quick: Receiver<(ClientId, Request)>,
    slow: Receiver<(ClientId, Request)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_commands(self: &Arc<Self>, queue: &Receiver<(ClientId, Request)>, context: &Context) {
        let mut pace = Pace::new(Instant::now());
        while let Ok((client, mut request)) = queue.recv() {
            if let Some(pause) = pace.pause(Instant::now()) {
                thread::park_timeout(pause);
            }
            let id = request.id.take();
            let (answer, after) = match commands::run(context, request) {
                Ok(outcome) => (Ok(outcome.value), outcome.after),
                Err(error) => (Err(error), None),
            };
            let mut clients = self.lock();
            if let Some(client) = clients.by_id.get_mut(&client) {
                client.connection.answer(id.as_ref(), answer);
            }
            // The answer goes out first, and the client's next command waits for what this one leads to.
            self.settle(&mut clients, client);
            drop(clients);
            if let Some(after) = after {
                after();
            }
            let mut clients = self.lock();
            if let Some(client) = clients.by_id.get_mut(&client) {
                client.connection.request_ended();
            }
            self.settle(&mut clients, client);
        }
    }

    fn accept(self: &Arc<Self>, listener: &OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Not while nothing that a client sends could be closed again.
        let accepted = if is_full() {
            Err(Errno::NOBUFS)
        } else {
            accept_with(listener, flags)
        };
        let socket = match accepted {
            Ok(socket) => ByteStream::new(socket),
            // The client is gone, or somebody else took it.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(errno) => {
                if !std::mem::replace(&mut self.lock().cannot_accept, true) {
                    tracing::warn!(%errno, "QMP clients are not accepted; they wait");
                }
                // It stays readable, and this thread would do nothing else.
                thread::sleep(ACCEPT_PAUSE);
                return;
            }
        };
        let mut clients = self.lock();
        clients.cannot_accept = false;
        if clients.by_id.len() >= MAX_CLIENTS {
            tracing::warn!(
                limit = MAX_CLIENTS,
                "QMP client was turned away: too many clients"
            );
            return;
        }
        clients.next += 1;
        let id = ClientId(clients.next);
        let client = Client {
            socket: Arc::new(socket),
            connection: Connection::new(),
            reading: Reading::Open,
            registration: None,
        };
        clients.by_id.insert(id, client);
        self.settle(&mut clients, id);
    }

    /// The client's socket is ready.
    fn ready(self: &Arc<Self>, id: ClientId) {
        let mut clients = self.lock();
        if let Some(client) = clients.by_id.get_mut(&id) {
            client.read();
        }
        self.settle(&mut clients, id);
    }

    /// Hands out what can be run, sends what can be sent, and waits for what is left; drops the client at its end.
    fn settle(self: &Arc<Self>, clients: &mut Clients, id: ClientId) {
        let Some(client) = clients.by_id.get_mut(&id) else {
            return;
        };
        let mut keep = true;
        while keep {
            if let Some(request) = client.connection.next_request() {
                self.hand_out(id, request);
            }
            keep = client.flush();
            if !client.connection.may_go_on() {
                break;
            }
        }
        keep = keep && !client.finished() && self.wait(client, id);
        if keep {
            return;
        }
        let registration = clients
            .by_id
            .remove(&id)
            .and_then(|client| client.registration);
        if let Some((token, _)) = registration {
            self.events.remove(token);
        }
    }

    fn hand_out(&self, client: ClientId, request: Request) {
        let queue = if commands::is_slow(&request.execute) {
            &self.slow
        } else {
            &self.quick
        };
        // The receiver lives as long as the process, but for a server that is being taken down.
        let _sent = queue.send((client, request));
    }

    /// Waits for just what the client needs next; false when that is not possible.
    fn wait(self: &Arc<Self>, client: &mut Client, id: ClientId) -> bool {
        let reads = client.reading == Reading::Open && client.connection.wants_input();
        let interest = match (reads, !client.connection.output().is_empty()) {
            (true, true) => Some(Interest::Both),
            (true, false) => Some(Interest::Readable),
            (false, true) => Some(Interest::Writable),
            (false, false) => None,
        };
        let waited = match (client.registration, interest) {
            (None, None) => Ok(None),
            (Some((token, now)), Some(interest)) if now == interest => Ok(Some((token, now))),
            (Some((token, _)), Some(interest)) => self
                .events
                .set_interest(token, interest)
                .map(|()| Some((token, interest))),
            (Some((token, _)), None) => {
                self.events.remove(token);
                Ok(None)
            }
            (None, Some(interest)) => {
                let shared = Arc::clone(self);
                let ready = move |_: &EventLoop| shared.ready(id);
                let socket = Arc::clone(&client.socket);
                let added = self.events.add(socket, interest, Arc::new(ready));
                added.map(|token| Some((token, interest)))
            }
        };
        match waited {
            Ok(registration) => client.registration = registration,
            Err(error) => {
                tracing::warn!(%error, "QMP client is dropped: its socket cannot be waited for")
            }
        }
        interest.is_none() || client.registration.is_some()
    }
}

impl Client {
    fn read(&mut self) {
        if self.reading == Reading::Ended || !self.connection.wants_input() {
            return;
        }
        let mut bytes = [0; READ_BYTES];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.reading = Reading::Ended,
            Ok(read) => self
                .connection
                .received(bytes.get(..read).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.reading = Reading::Ended,
        }
    }

    /// Sends what the socket takes; false when the client must go.
    fn flush(&mut self) -> bool {
        while !self.connection.output().is_empty() {
            match send(
                &*self.socket,
                self.connection.output(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(sent) => self.connection.sent(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return !self.connection.overflowed(),
                Err(_) => return false,
            }
        }
        true
    }

    /// The client has closed and was answered everything.
    fn finished(&self) -> bool {
        self.reading == Reading::Ended && self.connection.is_idle()
    }
}
