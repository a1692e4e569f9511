//! Answers what a running VMM asks: attach a device under an id, release it; open an image, close it.
//!
//! Everything is checked against the policy first. A host device gets a device server of its own, and the answer follows when
//! that is ready; its socket may come before. A socket is connected to; the answer follows if its server has no room yet.
//! Images are the matter of `images`.
//! Limits: `MAX_SOCKETS` sockets, connected or tried, and those of `servers`.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use protocol::pci::PciAddress;
use protocol::supervisor::{Reply, Request, Target};
use telemetry::device::UNKNOWN;
use telemetry::security::Event;

use super::connect::{Attempt, RETRY};
use super::deadline;
use super::hosts::{self, HostDevice, SYSFS};
use super::images::Images;
use super::managed::{self, Managed, Moved, Purpose, Refusal};
use super::policy::Policy;
use super::server::Notice;
use super::servers::{Release, Servers};
use super::spare::Spare;
use super::spawn::Spawner;
use crate::one_line::one_line;

/// What may be attached, and what is.
#[derive(Debug)]
pub(super) struct Attachments {
    policy: Policy,
    spawner: Spawner,
    pub(super) managed: Managed,
    pub(super) images: Images,
    pub(super) spare: Spare,
    /// Ids of devices whose server is somebody else's.
    sockets: BTreeSet<String>,
    /// Those that are not connected yet, with the requests that wait for it, and when to try again.
    attempts: Vec<(u32, Attempt)>,
    next_attempt: Instant,
}

/// A reply to the VMM, with the socket or the image that goes with it.
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
    pub(super) fn new(policy: Policy, spawner: Spawner, managed: Managed) -> Attachments {
        let images = Images::new(spawner.programs.vmm.clone(), spawner.memory_bytes);
        Attachments {
            policy,
            spawner,
            managed,
            images,
            spare: Spare::default(),
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
            Request::OpenImage { number, path } => match self.open_image(number, &path) {
                Ok(()) => Outcome::Later,
                Err(reason) => {
                    let message = "The VMM was refused an image";
                    Event::ImageRefused.report(None, "VMM", &reason, message);
                    Outcome::Answer((Reply::refused(number, &reason), None))
                }
            },
            Request::CloseImage { number, image } => {
                self.images.close(image);
                Outcome::Answer((Reply::Released { number }, None))
            }
        }
    }

    fn open_image(&mut self, number: u32, path: &str) -> Result<(), String> {
        let allowed = self.policy.check_image(path);
        allowed.map_err(|denied| denied.to_string())?;
        self.images.open(number, path)
    }

    /// What to poll of what is done by other processes.
    pub(super) fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let errands = self.managed.pidfds().chain(self.images.pidfd());
        errands.chain(self.spare.pidfd())
    }

    /// Tries again to connect, goes on with devices that were moved, and lends images that were read. `has_vmm`: there is somebody to serve them to.
    pub(super) fn on_time(
        &mut self,
        servers: &mut Servers,
        now: Instant,
        has_vmm: bool,
    ) -> Vec<Answer> {
        let mut answers = self.try_again(now);
        answers.extend(self.images.on_time(now));
        self.keep_a_spare(servers, now, has_vmm);
        for moved in self.managed.ended(now) {
            answers.extend(self.moved(servers, moved, has_vmm));
        }
        answers
    }

    fn keep_a_spare(&mut self, servers: &Servers, now: Instant, has_vmm: bool) {
        if !has_vmm {
            self.spare.end();
        } else if servers.any_starting() {
            self.spare.expect(now);
        }
        let may_have_another = || self.policy.hosts().any(|host| !servers.has_host(host));
        self.spare.on_time(now, may_have_another, &self.spawner);
    }

    fn try_again(&mut self, now: Instant) -> Vec<Answer> {
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

    /// A device has left its host driver, or is back with it; or not.
    pub(super) fn moved(
        &mut self,
        servers: &mut Servers,
        moved: Moved,
        has_vmm: bool,
    ) -> Vec<Answer> {
        let (purpose, outcome) = moved;
        match (purpose, outcome) {
            (Purpose::Serve(device, _), Ok(())) if !has_vmm => self.give_back(&[device.host], &[]),
            (Purpose::Serve(device, number), Ok(())) => {
                let host = device.host;
                let Err(reason) = self.start_server(servers, device, number) else {
                    return Vec::new();
                };
                tracing::warn!(reason, "The VMM was refused a device");
                let mut answers = self.refuse(&[host], number, &reason);
                answers.extend(self.give_back(&[host], &[]));
                answers
            }
            (Purpose::Serve(_, number), Err(reason)) => {
                tracing::warn!(reason, "A device was not taken from its host driver");
                vec![(Reply::refused(number, &reason), None)]
            }
            (Purpose::Release(hosts, requests), outcome) => {
                if let Err(reason) = outcome {
                    managed::tell_kept(&hosts, &reason);
                }
                self.back(&hosts, &requests)
            }
        }
    }

    /// Refuses an attach: when these devices are back, if they were taken from their host drivers.
    pub(super) fn refuse(
        &mut self,
        hosts: &[PciAddress],
        number: u32,
        reason: &str,
    ) -> Vec<Answer> {
        let refusal = (number, reason.to_owned());
        match self.managed.refuse_later(hosts, refusal) {
            Ok(()) => Vec::new(),
            Err(refusal) => vec![refused(refusal)],
        }
    }

    /// Gives back those of these devices that were taken from their host drivers. Without any, the answers are here at once.
    pub(super) fn give_back(&mut self, hosts: &[PciAddress], requests: &[u32]) -> Vec<Answer> {
        let begun = self.managed.give_back(hosts, requests);
        if begun.unwrap_or_else(|reason| {
            managed::tell_kept(hosts, &reason);
            false
        }) {
            return Vec::new();
        }
        self.back(hosts, requests)
    }

    /// The host has these devices, or as much of them as it will get.
    pub(super) fn back(&mut self, hosts: &[PciAddress], requests: &[u32]) -> Vec<Answer> {
        self.spare.expect_soon(Instant::now());
        let released = |number: &u32| (Reply::Released { number: *number }, None);
        let answers = requests.iter().map(released);
        let refusals = self.managed.refusals(hosts).into_iter().map(refused);
        answers.chain(refusals).collect()
    }

    /// When to try again to connect, or to stop waiting for a device that is moved or an image that is read.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let attempt = (!self.attempts.is_empty()).then_some(self.next_attempt);
        attempt
            .into_iter()
            .chain(self.managed.next_deadline())
            .chain(self.images.next_deadline())
            .chain(self.spare.next_deadline())
            .min()
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
        if servers.has_id(id) || self.managed.has_id(id) || self.sockets.contains(id) {
            return Err(format!(
                "id {id} is in use: release it first, or take another id"
            ));
        }
        match target {
            Target::Host { host, .. } if self.managed.is_moving(host) => Err(format!(
                "host device {host} is on its way from or to its host driver: try again"
            )),
            Target::Host { host, options } => {
                let device = HostDevice {
                    id: id.to_owned(),
                    host,
                    options,
                };
                if options.managed && !hosts::is_with_vfio(Path::new(SYSFS), host) {
                    managed::check_driver(Path::new(SYSFS))?;
                    self.managed.take(device, number)?;
                } else {
                    self.start_server(servers, device, number)?;
                }
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
                .device_server(&group, &mut self.spare.waiting)
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

fn refused((number, reason): Refusal) -> Answer {
    (Reply::refused(number, &reason), None)
}
