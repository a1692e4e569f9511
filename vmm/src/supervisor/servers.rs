//! The device servers of one VM: their processes, their sockets until the VMM has them, their deadlines.
//!
//! What happens when is decided in `life`; here it is done. Limit: `MAX_SERVERS` at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandbox::prepare::{ChildProcess, Ending};

use super::deadline;
use super::hosts::HostGroup;
use super::life::{Action, Event, Life};
use super::ready::{ReadyPipe, ReadyState};
use super::spawn::{Connected, StartedServer};

/// How long a server that closed its ready pipe without a word may take to end.
const SILENT: Duration = Duration::from_secs(2);

/// Names a server within its `Servers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerKey(u64);

/// All device servers of the VM.
#[derive(Debug, Default)]
pub(super) struct Servers {
    table: BTreeMap<ServerKey, Server>,
    next_key: u64,
}

#[derive(Debug)]
struct Server {
    group: HostGroup,
    process: ChildProcess,
    ready: Option<ReadyPipe>,
    sockets: Vec<OwnedFd>,
    life: Life,
    deadline: Option<Instant>,
    /// Ids that the VMM has released.
    released: BTreeSet<String>,
    /// Why it does not serve, in its own words.
    failure: Option<String>,
}

/// What the rest of the supervisor has to know.
#[derive(Debug)]
pub(super) enum Notice {
    /// A server is ready; these are the VMM's sockets.
    Started(Vec<Connected>),
    /// A server did not get ready; the ids it was for, and why.
    Failed { ids: Vec<String>, reason: String },
    /// A server died under the VMM.
    Lost {
        ids: Vec<String>,
        hosts: String,
        ending: String,
    },
    /// A server ended after its clients had left.
    Finished { ids: Vec<String>, hosts: String },
    /// A server is gone as it should.
    Ended { ids: Vec<String>, hosts: String },
    /// A server was killed and does not end.
    Stuck { hosts: String, pid: i32 },
}

/// What releasing an id led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// The server ends; a `Notice` follows.
    Ending,
    /// The server serves other devices of its group.
    Shared,
    /// No server serves this id.
    Unknown,
}

impl Servers {
    /// Takes a server that was just started.
    pub(super) fn add(&mut self, group: HostGroup, started: StartedServer) {
        let server = Server {
            group,
            process: started.process,
            ready: Some(started.ready),
            sockets: started.sockets,
            life: Life::Starting,
            deadline: Some(Instant::now() + deadline::SERVER_READY),
            released: BTreeSet::new(),
            failure: None,
        };
        self.table.insert(ServerKey(self.next_key), server);
        self.next_key += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.table.len() >= deadline::MAX_SERVERS
    }

    /// Whether any ready line is awaited.
    pub(super) fn any_starting(&self) -> bool {
        self.table
            .values()
            .any(|server| server.life == Life::Starting)
    }

    /// The devices that the server of this group serves, if there is one.
    pub(super) fn hosts_of_group(&self, number: u32) -> Option<String> {
        self.table
            .values()
            .find(|server| server.group.number == number)
            .map(|server| server.group.hosts())
    }

    /// Whether a server has a device under this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// The nearest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.table
            .values()
            .filter_map(|server| server.deadline)
            .min()
    }

    /// Everything to poll: ready pipes, and pidfds.
    pub(super) fn ready_fds(&self) -> impl Iterator<Item = (ServerKey, BorrowedFd<'_>)> {
        self.table
            .iter()
            .filter_map(|(key, server)| Some((*key, server.ready.as_ref()?.as_fd())))
    }

    /// See `ready_fds`.
    pub(super) fn pidfds(&self) -> impl Iterator<Item = (ServerKey, BorrowedFd<'_>)> {
        self.table
            .iter()
            .map(|(key, server)| (*key, server.process.pidfd()))
    }

    /// Its ready pipe is readable.
    pub(super) fn on_ready_pipe(&mut self, key: ServerKey) -> Option<Notice> {
        let server = self.table.get_mut(&key)?;
        let state = server.ready.as_mut()?.read();
        if state != ReadyState::Waiting {
            server.ready = None;
        }
        match state {
            ReadyState::Waiting => None,
            ReadyState::Ready => self.on(key, Event::Ready),
            ReadyState::Failed(text) => {
                server.failure = Some(text);
                self.on(key, Event::NotReady)
            }
            ReadyState::Silent => {
                // It is about to end: its exit status says more than its silence.
                server.deadline = Some(Instant::now() + SILENT);
                None
            }
        }
    }

    /// Its pidfd is readable.
    pub(super) fn on_pidfd(&mut self, key: ServerKey) -> Option<Notice> {
        // It may have said why before it ended.
        let words = self.on_ready_pipe(key);
        let server = self.table.get_mut(&key)?;
        let ending = server.process.try_wait().ok().flatten()?;
        if server.failure.is_none() {
            server.failure = Some(format!(
                "it ended before it was ready ({ending}); its log says why"
            ));
        }
        let event = if ending == Ending::Exited(0) {
            Event::Finished
        } else {
            Event::Exited
        };
        words.or_else(|| self.on(key, event))
    }

    /// Everybody whose deadline passed.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<Notice> {
        let late = |server: &Server| server.deadline.is_some_and(|deadline| deadline <= now);
        let keys: Vec<_> = self
            .table
            .iter()
            .filter(|(_, server)| late(server))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.on(key, Event::Late))
            .collect()
    }

    /// The VMM is gone: nobody uses any socket any more.
    pub(super) fn let_go_all(&mut self) -> Vec<Notice> {
        self.on_all(Event::LetGo)
    }

    /// No more patience.
    pub(super) fn stop_now_all(&mut self) -> Vec<Notice> {
        self.on_all(Event::StopNow)
    }

    /// The VMM has released this id.
    pub(super) fn release(&mut self, id: &str) -> Release {
        let Some(key) = self.find(id) else {
            return Release::Unknown;
        };
        let Some(server) = self.table.get_mut(&key) else {
            return Release::Unknown;
        };
        server.released.insert(id.to_owned());
        if server
            .group
            .devices
            .iter()
            .any(|device| !server.released.contains(&device.id))
        {
            return Release::Shared;
        }
        self.on(key, Event::LetGo);
        Release::Ending
    }

    fn find(&self, id: &str) -> Option<ServerKey> {
        let serves = |server: &Server| server.group.devices.iter().any(|device| device.id == id);
        self.table
            .iter()
            .find(|(_, server)| serves(server))
            .map(|(key, _)| *key)
    }

    fn on_all(&mut self, event: Event) -> Vec<Notice> {
        let keys: Vec<_> = self.table.keys().copied().collect();
        keys.into_iter()
            .filter_map(|key| self.on(key, event))
            .collect()
    }

    fn on(&mut self, key: ServerKey, event: Event) -> Option<Notice> {
        let server = self.table.get_mut(&key)?;
        let (life, actions) = server.life.on(event);
        server.life = life;
        let notices: Vec<Notice> = actions
            .iter()
            .filter_map(|action| server.act(*action))
            .collect();
        if life == Life::Gone {
            self.table.remove(&key);
        }
        notices.into_iter().next()
    }
}

impl Server {
    fn ids(&self) -> Vec<String> {
        self.group
            .devices
            .iter()
            .map(|device| device.id.clone())
            .collect()
    }

    /// Does it. At most one action of an event makes a notice.
    fn act(&mut self, action: Action) -> Option<Notice> {
        match action {
            Action::HandOver => Some(Notice::Started(
                self.ids().into_iter().zip(self.sockets.drain(..)).collect(),
            )),
            Action::Fail => {
                let late = || {
                    format!(
                        "it was not ready within {} s",
                        deadline::SERVER_READY.as_secs()
                    )
                };
                let reason = self.failure.clone().unwrap_or_else(late);
                self.sockets.clear();
                self.ready = None;
                Some(Notice::Failed {
                    ids: self.ids(),
                    reason,
                })
            }
            Action::ReportLoss => {
                let ending = self
                    .process
                    .try_wait()
                    .ok()
                    .flatten()
                    .unwrap_or(Ending::Exited(0))
                    .to_string();
                Some(Notice::Lost {
                    ids: self.ids(),
                    hosts: self.group.hosts(),
                    ending,
                })
            }
            Action::ReportFinish => Some(Notice::Finished {
                ids: self.ids(),
                hosts: self.group.hosts(),
            }),
            Action::ReportEnd => Some(Notice::Ended {
                ids: self.ids(),
                hosts: self.group.hosts(),
            }),
            Action::ReportStuck => Some(Notice::Stuck {
                hosts: self.group.hosts(),
                pid: self.process.pid(),
            }),
            Action::Kill => {
                if let Err(error) = self.process.signal(Signal::KILL) {
                    tracing::error!(%error, pid = self.process.pid(), "A device server cannot be killed");
                }
                None
            }
            Action::Within(patience) => {
                self.deadline = Some(Instant::now() + patience);
                None
            }
            Action::NoDeadline => {
                self.deadline = None;
                None
            }
        }
    }
}
