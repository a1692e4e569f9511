//! The VMM's side of the control socket: asks for a device server, and says when one may end.
//!
//! Spec: `protocol::supervisor`. Requests come from several threads, replies in any order; one thread receives them and
//! hands each to who waits for it. A deadline ends every wait. Replies that nobody waits for are dropped, and so is
//! the socket that comes with one: its server sees that and ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::supervisor::{ControlError, ControlSocket, Received, Reply, Request, Target};
use rustix::event::{PollFd, PollFlags, poll};

use crate::threads::{Kind, Threads};

/// From an attach to its answer. Source: the supervisor gives a device server 75 s to be ready.
const ATTACH_DEADLINE: Duration = Duration::from_secs(80);
/// From a release to its answer. Source: the supervisor gives a device server 75 s to end, and 10 s once it is killed.
const RELEASE_DEADLINE: Duration = Duration::from_secs(90);

/// Why the supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// It refuses; in its own words.
    #[error("{0}")]
    Refused(String),
    /// It did not answer.
    #[error("the supervisor did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It is not there.
    #[error("the supervisor is gone: nothing can be attached any more; start the VM anew")]
    Gone,
    /// It cannot be asked.
    #[error("ask the supervisor")]
    Send(#[source] ControlError),
}

/// Asks the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    socket: Arc<ControlSocket>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_id: HashMap<String, Sender<Answer>>,
    gone: bool,
}

type Answer = (Reply, Option<OwnedFd>);

impl Supervisor {
    /// Starts the thread that receives replies. It lives as long as the process.
    pub fn start(threads: &Threads, socket: OwnedFd) -> io::Result<Supervisor> {
        let supervisor = Supervisor {
            socket: Arc::new(ControlSocket::from(socket)),
            waiting: Arc::default(),
        };
        let (socket, waiting) = (
            Arc::clone(&supervisor.socket),
            Arc::clone(&supervisor.waiting),
        );
        let body = move || receive(&socket, &waiting);
        threads.start(Kind::Supervisor, "supervisor", body)?;
        Ok(supervisor)
    }

    /// A connected vfio-user socket of this device.
    pub fn attach(&self, id: &str, target: Target) -> Result<OwnedFd, SupervisorError> {
        let request = Request::Attach {
            id: id.to_owned(),
            target,
        };
        match self.ask(&request, ATTACH_DEADLINE)? {
            (Reply::Attached { .. }, Some(socket)) => Ok(socket),
            (Reply::Refused { reason, .. }, _) => Err(SupervisorError::Refused(reason)),
            (Reply::Attached { .. } | Reply::Released { .. }, _) => Err(SupervisorError::Refused(
                "the supervisor sent no socket".to_owned(),
            )),
        }
    }

    /// Says that this process holds nothing of the device any more. When this returns well, its server has ended and the host
    /// can use the device.
    pub fn release(&self, id: &str) -> Result<(), SupervisorError> {
        match self.ask(&Request::Release { id: id.to_owned() }, RELEASE_DEADLINE)? {
            (Reply::Released { .. }, _) => Ok(()),
            (Reply::Refused { reason, .. }, _) => Err(SupervisorError::Refused(reason)),
            (Reply::Attached { .. }, _) => Err(SupervisorError::Refused(
                "the supervisor answered something else".to_owned(),
            )),
        }
    }

    fn ask(&self, request: &Request, patience: Duration) -> Result<Answer, SupervisorError> {
        let answer = self.expect(request.id())?;
        let sent = self.socket.send(&request.encode(), None);
        let outcome = match sent {
            Err(error) => Err(SupervisorError::Send(error)),
            Ok(()) => answer.recv_timeout(patience).map_err(|error| match error {
                RecvTimeoutError::Timeout => SupervisorError::Late(patience),
                RecvTimeoutError::Disconnected => SupervisorError::Gone,
            }),
        };
        lock(&self.waiting).by_id.remove(request.id());
        outcome
    }

    fn expect(&self, id: &str) -> Result<Receiver<Answer>, SupervisorError> {
        let (sender, answer) = channel();
        let mut waiting = lock(&self.waiting);
        if waiting.gone {
            return Err(SupervisorError::Gone);
        }
        waiting.by_id.insert(id.to_owned(), sender);
        Ok(answer)
    }
}

fn receive(socket: &ControlSocket, waiting: &Mutex<Waiting>) {
    loop {
        // An interrupted wait is looked at like a finished one.
        let _ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], None);
        let (packet, fd) = match socket.receive(true) {
            Ok(Received::Packet(packet, fd)) => (packet, fd),
            Ok(Received::Empty) => continue,
            Ok(Received::Closed) => break,
            Err(error) => {
                tracing::error!(error = %error, "control socket");
                break;
            }
        };
        let Ok(reply) = Reply::decode(&packet) else {
            tracing::error!("the supervisor sent something that is no reply");
            break;
        };
        let id = match &reply {
            Reply::Attached { id } | Reply::Released { id } | Reply::Refused { id, .. } => id,
        };
        if let Some(sender) = lock(waiting).by_id.remove(id) {
            // Who waited may have given up; then the socket closes here.
            let _delivered = sender.send((reply, fd));
        }
    }
    let mut waiting = lock(waiting);
    waiting.gone = true;
    waiting.by_id.clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
