//! Answers what a running VMM asks: attach a device under an id, release it.
//!
//! Everything is checked against the policy first. A host device gets a device server of its own, and the answer follows when
//! that is ready. A socket is connected to; the answer follows if its server has no room yet.
//! Limits: `MAX_SOCKETS` sockets, connected or tried, and those of `servers`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use protocol::supervisor::{Reply, Request, Target};
use telemetry::device::UNKNOWN;
use telemetry::security::Event;

use super::connect::{Attempt, RETRY};
use super::deadline;
use super::hosts::{self, HostDevice, SYSFS};
use super::policy::Policy;
use super::server::Notice;
use super::servers::{Release, Servers};
use super::spawn::Spawner;
use crate::one_line::one_line;

/// What may be attached, and what is.
#[derive(Debug)]
pub(super) struct Attachments {
    policy: Policy,
    spawner: Spawner,
    /// Ids of devices whose server is somebody else's.
    sockets: BTreeSet<String>,
    /// Those that are not connected yet, with the requests that wait for it, and when to try again.
    attempts: Vec<(u32, Attempt)>,
    next_attempt: Instant,
}

/// A reply to the VMM, with the socket that goes with it.
pub(super) type Answer = (Reply, Option<OwnedFd>);

/// What became of a request at once.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An answer.
    Answer(Answer),
    /// The answer comes later.
    Later,
    /// Something to tell, which has the answer if there is one yet.
    Notice(Notice),
}

impl Attachments {
    pub(super) fn new(policy: Policy, spawner: Spawner) -> Attachments {
        Attachments {
            policy,
            spawner,
            sockets: BTreeSet::new(),
            attempts: Vec::new(),
            next_attempt: Instant::now(),
        }
    }

    pub(super) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// This id is in use and its server is somebody else's.
    pub(super) fn add_socket(&mut self, id: String) {
        self.sockets.insert(id);
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, servers: &mut Servers, request: Request) -> Outcome {
        match request {
            Request::Attach { number, id, target } => {
                let pci = match &target {
                    Target::Host { host, .. } => host.to_string(),
                    Target::Socket { .. } => UNKNOWN.to_owned(),
                };
                match self.attach(servers, number, &id, target) {
                    Ok(outcome) => outcome,
                    Err(reason) => {
                        let message = "The VMM was refused a device";
                        Event::DeviceRefused.report(Some((&id, &pci)), "VMM", &reason, message);
                        Outcome::Answer((Reply::refused(number, &reason), None))
                    }
                }
            }
            Request::Release { number, id } => self.release(servers, number, &id),
        }
    }

    /// Tries again to connect.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<Answer> {
        if now < self.next_attempt {
            return Vec::new();
        }
        let mut answers = Vec::new();
        for (number, mut attempt) in std::mem::take(&mut self.attempts) {
            match attempt.try_again(now) {
                None => self.attempts.push((number, attempt)),
                Some(Ok(socket)) => answers.push((Reply::Attached { number }, Some(socket))),
                Some(Err(error)) => {
                    self.sockets.remove(attempt.id());
                    answers.push((Reply::refused(number, &one_line(&error)), None));
                }
            }
        }
        self.next_attempt = now + RETRY;
        answers
    }

    /// When to try again to connect.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (!self.attempts.is_empty()).then_some(self.next_attempt)
    }

    fn attach(
        &mut self,
        servers: &mut Servers,
        number: u32,
        id: &str,
        target: Target,
    ) -> Result<Outcome, String> {
        self.policy
            .check(&target)
            .map_err(|denied| denied.to_string())?;
        if servers.has_id(id) || self.sockets.contains(id) {
            return Err(format!(
                "id {id} is in use: release it first, or take another id"
            ));
        }
        match target {
            Target::Host { host, options } => {
                let device = HostDevice {
                    id: id.to_owned(),
                    host,
                    options,
                };
                self.start_server(servers, device, number)?;
                Ok(Outcome::Later)
            }
            Target::Socket { path } => self.connect(number, id, Path::new(&path)),
        }
    }

    fn connect(&mut self, number: u32, id: &str, path: &Path) -> Result<Outcome, String> {
        if self.sockets.len() >= deadline::MAX_SOCKETS {
            return Err(format!(
                "this VM has {} vfio-user sockets, as many as it may have: release a device first",
                deadline::MAX_SOCKETS
            ));
        }
        let now = Instant::now();
        let mut attempt = Attempt::new(id, path, now + deadline::CONNECT);
        let outcome = match attempt.try_again(now) {
            Some(Ok(socket)) => Outcome::Answer((Reply::Attached { number }, Some(socket))),
            Some(Err(error)) => return Err(one_line(&error)),
            None => {
                self.attempts.push((number, attempt));
                self.next_attempt = now + RETRY;
                Outcome::Later
            }
        };
        self.sockets.insert(id.to_owned());
        Ok(outcome)
    }

    fn start_server(
        &mut self,
        servers: &mut Servers,
        device: HostDevice,
        number: u32,
    ) -> Result<(), String> {
        if servers.is_full() {
            return Err(
                "this VM has as many device servers as it may have: release a device first"
                    .to_owned(),
            );
        }
        let groups =
            hosts::by_group(Path::new(SYSFS), &[device]).map_err(|error| one_line(&error))?;
        for group in groups {
            if let Some(served) = servers.hosts_of_group(group.number) {
                let (hosts, number) = (group.hosts(), group.number);
                return Err(format!(
                    "{hosts} is in IOMMU group {number}, which this VM has {served} of: an IOMMU group is served as \
                     a whole; pass all its devices on the command line, or release {served} first"
                ));
            }
            let started = self
                .spawner
                .device_server(&group)
                .map_err(|error| one_line(&error))?;
            servers.add(group, started, Some(number));
        }
        Ok(())
    }

    /// A device that is not attached is as free as one that was released.
    fn release(&mut self, servers: &mut Servers, number: u32, id: &str) -> Outcome {
        self.sockets.remove(id);
        self.attempts.retain(|(_, attempt)| attempt.id() != id);
        match servers.release(id, number) {
            Release::Known(None) => Outcome::Later,
            Release::Known(Some(notice)) => Outcome::Notice(notice),
            Release::Unknown => Outcome::Answer((Reply::Released { number }, None)),
        }
    }
}
