//! The device servers of one VM: who is waited for, until when.
//!
//! What happens when is decided in `life`, and done in `server`. Limit: `MAX_SERVERS` at a time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use protocol::pci::PciAddress;
use sandbox::prepare::Ending;

use super::deadline;
use super::holders;
use super::hosts::HostGroup;
use super::life::{Event, Life};
use super::ready::ReadyState;
use super::server::{Notice, Server};
use super::spawn::StartedServer;

/// How long a server that closed its ready pipe without a word may take to end.
const SILENT: Duration = Duration::from_secs(2);

/// Names a server within its `Servers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerKey(u64);

/// All device servers of the VM.
#[derive(Debug)]
pub(super) struct Servers {
    table: BTreeMap<ServerKey, Server>,
    next_key: u64,
    /// When the kernel was asked last whether groups are free.
    looked: Instant,
}

/// What releasing an id led to.
#[derive(Debug)]
pub(super) enum Release {
    /// A `Notice` follows, or is this.
    Known(Option<Notice>),
    /// No server serves this id.
    Unknown,
}

impl Servers {
    pub(super) fn new() -> Servers {
        Servers {
            table: BTreeMap::new(),
            next_key: 0,
            looked: Instant::now(),
        }
    }

    /// Takes a server that was just started, for this request.
    pub(super) fn add(&mut self, group: HostGroup, started: StartedServer, attach: Option<u32>) {
        let server = Server::new(group, started, attach);
        self.table.insert(ServerKey(self.next_key), server);
        self.next_key += 1;
    }

    /// Whether nothing is left that the end of the VM has to wait for.
    pub(super) fn is_settled(&self) -> bool {
        !self.table.values().any(|server| server.life.is_awaited())
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

    /// Whether a server has this device.
    pub(super) fn has_host(&self, host: PciAddress) -> bool {
        let mut groups = self.table.values().map(|server| &server.group);
        groups.any(|group| group.devices.iter().any(|device| device.host == host))
    }

    /// Whether a server has a device under this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// The nearest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.table.values().filter_map(|server| server.deadline);
        let awaits = self.table.values().any(|server| server.life.awaits_free());
        let look = awaits.then(|| self.looked + deadline::LOOK);
        deadlines.chain(look).min()
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
            .filter(|(_, server)| server.ending.is_none())
            .map(|(key, server)| (*key, server.process.pidfd()))
    }

    /// The processes that run.
    pub(super) fn pids(&self) -> Vec<i32> {
        let running = self.table.values().filter(|server| server.ending.is_none());
        running.map(|server| server.process.pid()).collect()
    }

    /// Its ready pipe is readable.
    pub(super) fn on_ready_pipe(&mut self, key: ServerKey) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some(event) = self.read_ready_pipe(key) {
            notices.extend(self.on(key, event));
        }
        notices
    }

    /// What its next line means, if there is one.
    fn read_ready_pipe(&mut self, key: ServerKey) -> Option<Event> {
        let server = self.table.get_mut(&key)?;
        let state = server.ready.as_mut()?.read();
        if !matches!(state, ReadyState::Waiting | ReadyState::Serving) {
            server.ready = None;
        }
        match state {
            ReadyState::Waiting => None,
            ReadyState::Serving => Some(Event::Serving),
            ReadyState::Ready => Some(Event::Ready),
            ReadyState::Failed(text) => {
                server.failure = Some(text);
                Some(Event::NotReady)
            }
            ReadyState::Silent => {
                // It is about to end: its exit status says more than its silence.
                server.deadline = Some(Instant::now() + SILENT);
                None
            }
        }
    }

    /// Its pidfd is readable.
    pub(super) fn on_pidfd(&mut self, key: ServerKey) -> Vec<Notice> {
        // It may have said why before it ended.
        let mut notices = self.on_ready_pipe(key);
        notices.extend(self.on_end(key));
        notices
    }

    fn on_end(&mut self, key: ServerKey) -> Option<Notice> {
        let server = self.table.get_mut(&key)?;
        let ending = server.process.try_wait().ok().flatten()?;
        server.ending = Some(ending);
        if server.life == Life::Starting {
            server.failure.get_or_insert_with(|| {
                format!("it ended before it was ready ({ending}); its log says why")
            });
        }
        let event = if ending == Ending::Exited(0) {
            Event::Finished
        } else {
            Event::Exited
        };
        self.on(key, event)
    }

    /// Asks the kernel whether groups are free, and tells those whose deadline passed. `vmm` is the VMM's process.
    pub(super) fn on_time(&mut self, now: Instant, vmm: Option<i32>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for key in self.keys(|server| server.life.awaits_free()) {
            notices.extend(self.look(key));
        }
        let ours: Vec<i32> = self.pids().into_iter().chain(vmm).collect();
        let late = |server: &Server| server.deadline.is_some_and(|deadline| deadline <= now);
        for key in self.keys(late) {
            let event = self.judge_late(key, &ours);
            notices.extend(self.on(key, event));
        }
        self.looked = now;
        notices
    }

    fn look(&mut self, key: ServerKey) -> Option<Notice> {
        let server = self.table.get(&key)?;
        if !holders::is_free(server.group.number) {
            return None;
        }
        let clean = server.ended_clean();
        self.on(key, Event::Free { clean })
    }

    /// A group that is busy may have another owner by now, who was faster than our looks.
    fn judge_late(&self, key: ServerKey, ours: &[i32]) -> Event {
        match self.table.get(&key) {
            Some(server)
                if server.life.awaits_free()
                    && holders::has_another_opener(server.group.number, ours) =>
            {
                Event::Free {
                    clean: server.ended_clean(),
                }
            }
            Some(_) | None => Event::Late,
        }
    }

    /// The VMM is gone: nobody uses any socket or mapping any more.
    pub(super) fn let_go_all(&mut self) -> Vec<Notice> {
        self.on_all(Event::LetGo)
    }

    /// No more patience.
    pub(super) fn stop_now_all(&mut self) -> Vec<Notice> {
        self.on_all(Event::StopNow)
    }

    /// The VMM has released this id, with this request.
    pub(super) fn release(&mut self, id: &str, number: u32) -> Release {
        let Some(key) = self.find(id) else {
            return Release::Unknown;
        };
        let Some(server) = self.table.get_mut(&key) else {
            return Release::Unknown;
        };
        server.released.insert(id.to_owned(), number);
        let Some(other) = server.in_use() else {
            return Release::Known(self.on(key, Event::LetGo));
        };
        let reason = format!(
            "IOMMU group {} is served as a whole, and device {other} of it is in use: the host has both when that is released",
            server.group.number
        );
        Release::Known(Some(Notice::Held {
            requests: vec![number],
            devices: Vec::new(),
            reason,
        }))
    }

    fn find(&self, id: &str) -> Option<ServerKey> {
        let serves = |server: &Server| server.group.devices.iter().any(|device| device.id == id);
        self.table
            .iter()
            .find(|(_, server)| serves(server))
            .map(|(key, _)| *key)
    }

    fn keys(&self, wanted: impl Fn(&Server) -> bool) -> Vec<ServerKey> {
        let found = self.table.iter().filter(|(_, server)| wanted(server));
        found.map(|(key, _)| *key).collect()
    }

    fn on_all(&mut self, event: Event) -> Vec<Notice> {
        self.keys(|_| true)
            .into_iter()
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
