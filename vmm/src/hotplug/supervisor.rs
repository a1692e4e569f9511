//! The VMM's side of the control socket: asks for a device server or an image, and says when one may end.
//!
//! Spec: `protocol::supervisor`. Requests come from several threads, replies in any order; one thread receives them and
//! hands each, by its number, to who waits for it. An attach and an image are waited for, with a deadline. A release is not: what
//! becomes of it is told when it is known, once or twice. Replies that nobody waits for are dropped, and so is the socket that comes
//! with one: its server sees that and ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::supervisor::{ControlError, ControlSocket, Received, Reply, Request, Target};
use rustix::event::{PollFd, PollFlags, poll};

use crate::one_line::one_line;
use crate::threads::{Kind, Threads};

#[cfg(test)]
mod tests;

/// From an attach to its answer. Source: the supervisor gives a device server 75 s to be ready, and its device 40 s to leave its
/// host driver.
const ATTACH_DEADLINE: Duration = Duration::from_secs(180);
/// From the request for an image to its answer. Source: the supervisor gives the file's file system 30 s.
const IMAGE_DEADLINE: Duration = Duration::from_secs(60);

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

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The host has the device.
    Done,
    /// It does not have it, and why. `Done` may follow.
    Held(String),
}

/// Asks the supervisor.
pub struct Supervisor {
    socket: Arc<ControlSocket>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// The number of the last request.
    last: u32,
    by_number: HashMap<u32, Waiter>,
    gone: bool,
}

type Answer = (Reply, Option<OwnedFd>);
/// Who is told of a reply. `None`: the supervisor is gone.
type Waiter = Box<dyn FnMut(Option<Answer>) + Send>;

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

    /// A connected vfio-user socket of this device, and what is still to come if the device is not open yet.
    pub fn attach(
        &self,
        id: &str,
        target: Target,
    ) -> Result<(OwnedFd, Option<Opening>), SupervisorError> {
        let id = id.to_owned();
        let request = |number| Request::Attach { number, id, target };
        let asked = self.ask(request, ATTACH_DEADLINE)?;
        match asked.next()? {
            (Reply::Attached { .. }, Some(socket)) => Ok((socket, None)),
            (Reply::Connected { .. }, Some(socket)) => Ok((socket, Some(Opening(asked)))),
            (reply, _) => Err(refusal(reply, "the supervisor sent no socket")),
        }
    }

    /// What the file at this path holds now, and what closes it at the supervisor.
    pub fn open_image(&self, path: &str) -> Result<(OwnedFd, Lease), SupervisorError> {
        let path = path.to_owned();
        // From the moment it is asked for: one that comes too late is closed as well.
        let mut lease = None;
        let request = |number| {
            lease = Some(Lease {
                socket: Arc::clone(&self.socket),
                waiting: Arc::clone(&self.waiting),
                image: number,
            });
            Request::OpenImage { number, path }
        };
        let answer = self.ask(request, IMAGE_DEADLINE)?.next()?;
        match (answer, lease) {
            ((Reply::Opened { .. }, Some(image)), Some(lease)) => Ok((image, lease)),
            ((reply, _), _) => Err(refusal(reply, "the supervisor sent no image")),
        }
    }

    /// Asks. What comes too late is closed.
    fn ask(
        &self,
        request: impl FnOnce(u32) -> Request,
        patience: Duration,
    ) -> Result<Asked, SupervisorError> {
        let (sender, answers) = channel();
        let waiter = move |reply| {
            // Who waited may have given up; then what came with it closes here.
            let _delivered = sender.send(reply);
        };
        let asked = Asked {
            number: self.expect(Box::new(waiter))?,
            answers,
            waiting: Arc::clone(&self.waiting),
            patience,
        };
        self.send(&request(asked.number))?;
        Ok(asked)
    }

    /// Says that this process holds nothing of the device any more. `told` hears what becomes of that: whether the host has the
    /// device, or what keeps it; then the host may have it later. It is called on the receiving thread: it must not wait.
    pub fn release(&self, id: &str, told: impl Fn(Release) + Send + Sync + 'static) {
        let told = Arc::new(told);
        let waiter = {
            let told = Arc::clone(&told);
            move |answer: Option<Answer>| told(outcome(answer))
        };
        let sent = self.expect(Box::new(waiter)).and_then(|number| {
            let id = id.to_owned();
            let sent = self.send(&Request::Release { number, id });
            if sent.is_err() {
                lock(&self.waiting).by_number.remove(&number);
            }
            sent
        });
        if let Err(error) = sent {
            told(Release::Held(one_line(&error)));
        }
    }

    fn expect(&self, waiter: Waiter) -> Result<u32, SupervisorError> {
        let mut waiting = lock(&self.waiting);
        if waiting.gone {
            return Err(SupervisorError::Gone);
        }
        let number = waiting.next_number();
        waiting.by_number.insert(number, waiter);
        Ok(number)
    }

    fn send(&self, request: &Request) -> Result<(), SupervisorError> {
        let sent = self.socket.send(&request.encode(), None);
        sent.map_err(SupervisorError::Send)
    }
}

/// A request whose answers are waited for, as long as this lives.
#[derive(Debug)]
struct Asked {
    number: u32,
    answers: Receiver<Option<Answer>>,
    waiting: Arc<Mutex<Waiting>>,
    /// For each answer.
    patience: Duration,
}

impl Asked {
    fn next(&self) -> Result<Answer, SupervisorError> {
        let answer = self.answers.recv_timeout(self.patience);
        let answer = answer.map_err(|error| match error {
            RecvTimeoutError::Timeout => SupervisorError::Late(self.patience),
            RecvTimeoutError::Disconnected => SupervisorError::Gone,
        });
        answer?.ok_or(SupervisorError::Gone)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.waiting).by_number.remove(&self.number);
    }
}

/// A device that is still being opened.
#[derive(Debug)]
pub struct Opening(Asked);

impl Opening {
    /// Waits until it is open.
    pub fn wait(self) -> Result<(), SupervisorError> {
        match self.0.next()? {
            (Reply::Attached { .. }, _) => Ok(()),
            (reply, _) => Err(refusal(reply, "the supervisor answered something else")),
        }
    }
}

impl Waiting {
    fn next_number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }
}

/// An image that the supervisor has open for this process. Dropping it closes it there.
#[derive(Debug)]
pub struct Lease {
    socket: Arc<ControlSocket>,
    waiting: Arc<Mutex<Waiting>>,
    /// The number of the request that opened it.
    image: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (number, image) = (lock(&self.waiting).next_number(), self.image);
        let request = Request::CloseImage { number, image };
        // Nobody waits for the answer. A supervisor that is gone has closed it.
        if let Err(error) = self.socket.send(&request.encode(), None) {
            tracing::warn!(%error, "an image stays open at the supervisor");
        }
    }
}

/// What an answer means that is not the one that was hoped for.
fn refusal(reply: Reply, otherwise: &str) -> SupervisorError {
    SupervisorError::Refused(match reply {
        Reply::Refused { reason, .. } | Reply::Held { reason, .. } => reason,
        Reply::Attached { .. }
        | Reply::Connected { .. }
        | Reply::Released { .. }
        | Reply::Opened { .. } => otherwise.to_owned(),
    })
}

fn outcome(answer: Option<Answer>) -> Release {
    match answer {
        Some((Reply::Released { .. }, _)) => Release::Done,
        Some((Reply::Held { reason, .. } | Reply::Refused { reason, .. }, _)) => {
            Release::Held(reason)
        }
        Some((Reply::Attached { .. } | Reply::Connected { .. } | Reply::Opened { .. }, _)) => {
            Release::Held("the supervisor answered something else".to_owned())
        }
        None => Release::Held(one_line(&SupervisorError::Gone)),
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
        let number = reply.number();
        let mut all = lock(waiting);
        if reply.may_be_followed() {
            // Who waits may give up meanwhile, and is not to be put back then.
            if let Some(waiter) = all.by_number.get_mut(&number) {
                waiter(Some((reply, fd)));
            }
        } else {
            let waiter = all.by_number.remove(&number);
            drop(all);
            if let Some(mut waiter) = waiter {
                waiter(Some((reply, fd)));
            }
        }
    }
    let waiters = {
        let mut waiting = lock(waiting);
        waiting.gone = true;
        std::mem::take(&mut waiting.by_number)
    };
    for mut waiter in waiters.into_values() {
        waiter(None);
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Waiting")
            .field("last", &self.last)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Supervisor")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
