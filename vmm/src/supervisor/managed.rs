//! Host devices that this VM takes from their host driver and gives back afterwards (`managed=on`).
//!
//! `bulkhead-device-server host bind` and `host unbind` do that, each in a process of its own with a deadline: the kernel may
//! take its time with a driver. A device that VFIO has already is not taken, and so never given back.
//! Limit: `MAX_SERVERS` devices that are moved at a time.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use protocol::pci::PciAddress;
use rustix::event::Timespec;
use sandbox::prepare::Child;

use super::deadline;
use super::errand::{Errand, Order};
use super::hosts::HostDevice;
use super::programs::ProgramMissing;
use crate::one_line::one_line;

#[cfg(test)]
mod tests;

/// Between two attempts to give a device back at the end.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Devices on their way from a host driver and back.
#[derive(Debug)]
pub(super) struct Managed {
    program: Result<PathBuf, ProgramMissing>,
    /// Taken from the host, and not given back yet.
    taken: BTreeSet<PciAddress>,
    /// Of those, what is not as the host driver should find it: not reset, or still held. Only a clean end gives it back.
    held: BTreeSet<PciAddress>,
    moves: Vec<Move>,
    /// Requests that are refused, and told so when the device is back.
    refused: Vec<(PciAddress, Refusal)>,
}

/// What follows once a device was moved.
#[derive(Debug)]
pub(super) enum Purpose {
    /// It was taken to be served, for this request.
    Serve(HostDevice, u32),
    /// It was given back; these requests wait for that.
    Release(Vec<PciAddress>, Vec<u32>),
}

/// A request, and why it is refused.
pub(super) type Refusal = (u32, String);

/// A command that ended, with its own words if it failed.
pub(super) type Moved = (Purpose, Result<(), String>);

#[derive(Debug)]
struct Move {
    command: Errand,
    purpose: Purpose,
}

impl Managed {
    pub(super) fn new(program: Result<PathBuf, ProgramMissing>) -> Managed {
        Managed {
            program,
            taken: BTreeSet::new(),
            held: BTreeSet::new(),
            moves: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Whether the end of the VM has to wait for a device.
    pub(super) fn is_settled(&self) -> bool {
        self.moves.is_empty()
    }

    /// Whether a device is being moved under this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        let is_it =
            |one: &Move| matches!(&one.purpose, Purpose::Serve(device, _) if device.id == id);
        self.moves.iter().any(is_it)
    }

    /// Whether a host command runs for this device.
    pub(super) fn is_moving(&self, host: PciAddress) -> bool {
        self.moves.iter().any(|one| match &one.purpose {
            Purpose::Serve(device, _) => device.host == host,
            Purpose::Release(hosts, _) => hosts.contains(&host),
        })
    }

    /// These devices are not as a host driver should find them.
    pub(super) fn hold(&mut self, hosts: &[PciAddress]) {
        let ours = hosts.iter().filter(|host| self.taken.contains(host));
        self.held.extend(ours);
    }

    /// Begins to take a device from its host driver, for this request.
    pub(super) fn take(&mut self, device: HostDevice, request: u32) -> Result<(), String> {
        if self.moves.len() >= deadline::MAX_SERVERS {
            return Err("too many devices are being bound; try again".to_owned());
        }
        let command = self.start("bind", &[device.host])?;
        // What a bind that fails leaves is its own concern, but one that is killed may have bound it.
        self.taken.insert(device.host);
        let purpose = Purpose::Serve(device, request);
        self.moves.push(Move { command, purpose });
        Ok(())
    }

    /// Takes a device from its host driver, and waits for that: nothing else is to be done before the VM starts.
    pub(super) fn take_now(&mut self, host: PciAddress) -> Result<(), String> {
        let mut command = self.start("bind", &[host])?;
        self.taken.insert(host);
        let outcome = command.wait();
        if outcome.is_err() {
            self.taken.remove(&host);
        }
        outcome
    }

    /// Begins to give back those of these devices that were taken; the requests wait for that. False if there are none.
    pub(super) fn give_back(
        &mut self,
        hosts: &[PciAddress],
        requests: &[u32],
    ) -> Result<bool, String> {
        let ours: Vec<PciAddress> = hosts
            .iter()
            .copied()
            .filter(|host| self.taken.contains(host))
            .collect();
        if ours.is_empty() {
            return Ok(false);
        }
        let command = self.start("unbind", &ours)?;
        for host in &ours {
            self.taken.remove(host);
            self.held.remove(host);
        }
        let purpose = Purpose::Release(ours, requests.to_vec());
        self.moves.push(Move { command, purpose });
        Ok(true)
    }

    /// Refuses a request when these devices are back. Gives it back if none of them was taken.
    pub(super) fn refuse_later(
        &mut self,
        hosts: &[PciAddress],
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        let ours = hosts.iter().find(|host| self.taken.contains(host));
        let Some(host) = ours else {
            return Err(refusal);
        };
        self.refused.push((*host, refusal));
        Ok(())
    }

    /// What was to be refused when these devices are back.
    pub(super) fn refusals(&mut self, hosts: &[PciAddress]) -> Vec<Refusal> {
        let back = |one: &mut (PciAddress, Refusal)| hosts.contains(&one.0);
        let refused = self.refused.extract_if(.., back);
        refused.map(|(_, refusal)| refusal).collect()
    }

    /// What to poll.
    pub(super) fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.moves.iter().map(|one| one.command.pidfd())
    }

    /// The nearest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.moves.iter().map(|one| one.command.deadline()).min()
    }

    /// The commands that have ended. Kills those that are late. What a killed one may have bound, and what did not go back, stays
    /// noted: it goes back with the VM.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Moved> {
        let mut ended = Vec::new();
        for mut one in std::mem::take(&mut self.moves) {
            let Some(outcome) = one.command.outcome(now) else {
                self.moves.push(one);
                continue;
            };
            match (&one.purpose, &outcome) {
                (Purpose::Serve(device, _), Err(_)) if now < one.command.deadline() => {
                    self.taken.remove(&device.host);
                }
                (Purpose::Release(hosts, _), Err(_)) => self.taken.extend(hosts),
                (Purpose::Serve(..) | Purpose::Release(..), _) => {}
            }
            ended.push((one.purpose, outcome));
        }
        ended
    }

    fn give_back_now(&self, host: PciAddress) -> Result<(), String> {
        self.start("unbind", &[host])?.wait()
    }

    fn start(&self, verb: &'static str, hosts: &[PciAddress]) -> Result<Errand, String> {
        let program = self.program.clone().map_err(|error| error.to_string())?;
        let mut arguments = vec!["host".into(), verb.into()];
        arguments.extend(hosts.iter().map(|host| host.to_string().into()));
        let order = Order {
            child: Child::new(program, arguments),
            limit: deadline::host_command(hosts.len()),
            late: "the host's kernel did not move it",
        };
        let started = Errand::start(order);
        started.map_err(|error| format!("host {verb}: {}", one_line(&error)))
    }
}

/// The VM ends, or never began: what was taken and nobody has given back goes back now.
impl Drop for Managed {
    fn drop(&mut self) {
        for one in std::mem::take(&mut self.moves) {
            let mut command = one.command;
            // Its outcome is no longer anybody's.
            let _ended = command.wait();
        }
        let give_up = Instant::now() + deadline::GIVE_BACK;
        for host in std::mem::take(&mut self.taken) {
            if self.held.contains(&host) {
                tell_kept(&[host], "it was not reset, or something has it still");
                continue;
            }
            while let Err(reason) = self.give_back_now(host) {
                // A device server that was killed a moment ago may have it still.
                if Instant::now() >= give_up {
                    tell_kept(&[host], &reason);
                    break;
                }
                let _ = rustix::event::poll(&mut [], Some(&PAUSE));
            }
        }
    }
}

/// Whether there is a driver to bind to. The supervisor loads no module: its sandbox refuses that to everything it starts.
pub(super) fn check_driver(sysfs: &Path) -> Result<(), String> {
    if sysfs.join("bus/pci/drivers/vfio-pci").exists() {
        return Ok(());
    }
    Err(
        "this host has not loaded vfio-pci, and a VM loads no modules: `modprobe vfio-pci` first"
            .to_owned(),
    )
}

/// One line for the operator.
pub(super) fn tell_kept(hosts: &[PciAddress], reason: &str) {
    let hosts: Vec<String> = hosts.iter().map(PciAddress::to_string).collect();
    let hosts = hosts.join(" ");
    eprintln!(
        "bulkhead-vmm: host device {hosts} was not given back to its host driver: {reason}; \
         `bulkhead-device-server host unbind {hosts}` tries again"
    );
}
