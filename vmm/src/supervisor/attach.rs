//! Answers what a running VMM asks: attach a device under an id, release it.
//!
//! Everything is checked against the policy first. A host device gets a device server of its own, and the answer
//! follows when that is ready; a socket is connected to at once.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use protocol::supervisor::{Reply, Request, Target};

use super::connect;
use super::hosts::{self, HostDevice, SYSFS};
use super::policy::Policy;
use super::servers::{Release, Servers};
use super::spawn::Spawner;
use crate::one_line::one_line;

/// What may be attached, and what is.
#[derive(Debug)]
pub(super) struct Attachments {
    policy: Policy,
    spawner: Spawner,
    /// Ids of devices whose server is not ours, or was and died.
    without_server: BTreeSet<String>,
}

/// An answer for now; `None`: it follows when the server is ready or gone.
pub(super) type Answer = Option<(Reply, Option<OwnedFd>)>;

impl Attachments {
    pub(super) fn new(policy: Policy, spawner: Spawner) -> Attachments {
        Attachments {
            policy,
            spawner,
            without_server: BTreeSet::new(),
        }
    }

    pub(super) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// This id is in use and has no server of ours.
    pub(super) fn add_without_server(&mut self, id: String) {
        self.without_server.insert(id);
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, servers: &mut Servers, request: Request) -> Answer {
        match request {
            Request::Attach { id, target } => match self.attach(servers, &id, target) {
                Ok(None) => None,
                Ok(Some(socket)) => Some((Reply::Attached { id }, Some(socket))),
                Err(reason) => {
                    tracing::warn!(id, reason, "The VMM was refused a device");
                    Some((Reply::refused(&id, &reason), None))
                }
            },
            Request::Release { id } => self.release(servers, id),
        }
    }

    fn attach(
        &mut self,
        servers: &mut Servers,
        id: &str,
        target: Target,
    ) -> Result<Option<OwnedFd>, String> {
        self.policy
            .check(&target)
            .map_err(|denied| denied.to_string())?;
        if servers.has_id(id) || self.without_server.contains(id) {
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
                self.start_server(servers, device).map(|()| None)
            }
            Target::Socket { path } => {
                let socket =
                    connect::connect(id, Path::new(&path)).map_err(|error| one_line(&error))?;
                self.without_server.insert(id.to_owned());
                Ok(Some(socket))
            }
        }
    }

    fn start_server(&mut self, servers: &mut Servers, device: HostDevice) -> Result<(), String> {
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
            servers.add(group, started);
        }
        Ok(())
    }

    fn release(&mut self, servers: &mut Servers, id: String) -> Answer {
        if self.without_server.remove(&id) {
            return Some((Reply::Released { id }, None));
        }
        match servers.release(&id) {
            Release::Ending => None,
            Release::Shared => Some((Reply::Released { id }, None)),
            Release::Unknown => Some((
                Reply::refused(&id, "no device is attached under this id"),
                None,
            )),
        }
    }
}
