//! One device server: its process, its sockets until the VMM has them, and who waits for what of it.
//!
//! What happens when is decided in `life`; here it is done.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use protocol::pci::PciAddress;
use rustix::process::Signal;
use sandbox::prepare::{ChildProcess, Ending};

use super::brake;
use super::deadline;
use super::hosts::{self, HostDevice, HostGroup, SYSFS};
use super::life::{Action, Life};
use super::ready::ReadyPipe;
use super::spawn::{Connected, StartedServer};

/// A device server, until its group is free.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) group: HostGroup,
    pub(super) process: ChildProcess,
    /// How the process ended, once it was reaped.
    pub(super) ending: Option<Ending>,
    pub(super) ready: Option<ReadyPipe>,
    sockets: Vec<OwnedFd>,
    pub(super) life: Life,
    pub(super) deadline: Option<Instant>,
    /// The request that it was started for.
    attach: Option<u32>,
    /// Ids that the VMM has released, each with the last request that asked for it.
    pub(super) released: BTreeMap<String, u32>,
    /// Why it never served, in its own words.
    pub(super) failure: Option<String>,
}

/// What the rest of the supervisor has to know.
#[derive(Debug)]
pub(super) enum Notice {
    /// A server is being started, and its client may speak to it already; these are the VMM's sockets.
    Connected {
        /// The request that asked for it.
        attach: Option<u32>,
        /// Its devices.
        devices: Vec<Connected>,
    },
    /// A server is ready; these are the VMM's sockets, unless it has them.
    Started {
        /// The request that asked for it.
        attach: Option<u32>,
        /// Its devices.
        devices: Vec<Connected>,
    },
    /// A server did not get ready.
    Failed {
        /// The request that asked for it.
        attach: Option<u32>,
        /// The ids it was for.
        ids: Vec<String>,
        /// And their devices.
        devices: Vec<PciAddress>,
        /// Why.
        reason: String,
        /// How it died, if the VMM could speak to it already.
        died: Option<Ending>,
    },
    /// A server died under the VMM.
    Lost {
        ids: Vec<String>,
        hosts: String,
        ending: String,
    },
    /// A server ended after its clients had left.
    Finished { hosts: String },
    /// The host has the devices; these requests waited for that.
    Ended {
        requests: Vec<u32>,
        devices: Vec<PciAddress>,
        hosts: String,
    },
    /// The host does not have the devices, or not as they should be; these requests wait for them.
    Held {
        requests: Vec<u32>,
        devices: Vec<PciAddress>,
        reason: String,
    },
    /// The VMM does not let go of devices whose server has ended.
    VmmKeeps { hosts: String },
}

impl Server {
    /// A server that was just started, for this request.
    pub(super) fn new(group: HostGroup, started: StartedServer, attach: Option<u32>) -> Server {
        Server {
            group,
            process: started.process,
            ending: None,
            ready: Some(started.ready),
            sockets: started.sockets,
            life: Life::Starting,
            deadline: Some(Instant::now() + deadline::SERVER_READY),
            attach,
            released: BTreeMap::new(),
            failure: None,
        }
    }

    fn addresses(&self) -> Vec<PciAddress> {
        let devices = self.group.devices.iter();
        devices.map(|device| device.host).collect()
    }

    /// The first device that the VMM has not released.
    pub(super) fn in_use(&self) -> Option<&str> {
        let ids = self.group.devices.iter().map(|device| device.id.as_str());
        let mut in_use = ids.filter(|id| !self.released.contains_key(*id));
        in_use.next()
    }

    /// Whether it did not say that it failed to take its devices back. The kernel resets those of a server that was killed.
    pub(super) fn ended_clean(&self) -> bool {
        let left = |device: &HostDevice| hosts::has_left_vfio(Path::new(SYSFS), device.host);
        match self.ending {
            // One whose devices were unbound under it cannot open them again. If one is still there, it may be the one that failed.
            Some(Ending::Exited(_)) if self.group.devices.iter().all(left) => true,
            None | Some(Ending::Exited(0) | Ending::Killed(_)) => true,
            // One that never served had nothing to take back.
            Some(Ending::Exited(_)) => self.failure.is_some(),
        }
    }

    /// Does it. At most one action of an event makes a notice.
    pub(super) fn act(&mut self, action: Action) -> Option<Notice> {
        match action {
            Action::Connect => Some(Notice::Connected {
                attach: self.attach,
                devices: self.take_sockets(),
            }),
            Action::HandOver => Some(Notice::Started {
                attach: self.attach,
                devices: self.take_sockets(),
            }),
            Action::Fail => Some(self.fail()),
            Action::ReportLoss => Some(Notice::Lost {
                ids: self.ids(),
                hosts: self.group.hosts(),
                ending: self.ending_text(),
            }),
            Action::ReportFinish => Some(Notice::Finished {
                hosts: self.group.hosts(),
            }),
            Action::ReportEnd => Some(Notice::Ended {
                requests: self.waiting(),
                devices: self.addresses(),
                hosts: self.group.hosts(),
            }),
            Action::ReportStuck => Some(self.held(format!(
                "its device server (process {pid}) was killed and does not end: it is stuck in the kernel, see \
                 /proc/{pid}/stack",
                pid = self.process.pid()
            ))),
            Action::ReportUnclean => Some(self.held(format!(
                "its device server ended with {}: it could not take the device back as it should be, and its log says why; \
                 device_del again accepts that",
                self.ending_text()
            ))),
            Action::ReportKept => Some(self.held(format!(
                "somebody still holds IOMMU group {}: a process that was given one of its descriptors",
                self.group.number
            ))),
            Action::KillVmm => Some(Notice::VmmKeeps {
                hosts: self.group.hosts(),
            }),
            Action::Kill => {
                if let Err(error) = self.process.signal(Signal::KILL) {
                    tracing::error!(%error, pid = self.process.pid(), "A device server cannot be killed");
                }
                None
            }
            Action::Brake => {
                if let Err(error) = brake::stop_dma(self.addresses()) {
                    tracing::error!(%error, pci = self.group.hosts(), "DMA cannot be stopped");
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

    /// The VMM's ends, with the devices that they are for.
    fn take_sockets(&mut self) -> Vec<Connected> {
        let ids = self.ids().into_iter();
        ids.zip(self.sockets.drain(..)).collect()
    }

    fn fail(&mut self) -> Notice {
        let late = || {
            format!(
                "it was not ready within {} s",
                deadline::SERVER_READY.as_secs()
            )
        };
        let reason = self.failure.get_or_insert_with(late).clone();
        let had_client = self.sockets.is_empty();
        self.sockets.clear();
        self.ready = None;
        let is_death = |ending: &Ending| matches!(ending, Ending::Killed(_));
        Notice::Failed {
            attach: self.attach,
            ids: self.ids(),
            devices: self.addresses(),
            reason,
            died: self.ending.filter(is_death).filter(|_| had_client),
        }
    }

    fn held(&self, reason: String) -> Notice {
        let requests = self.waiting();
        let hosts = self.group.hosts();
        Notice::Held {
            requests,
            devices: self.addresses(),
            reason: format!("host device {hosts}: {reason}"),
        }
    }

    fn waiting(&self) -> Vec<u32> {
        self.released.values().copied().collect()
    }

    fn ending_text(&self) -> String {
        self.ending
            .map_or_else(|| "no status".to_owned(), |ending| ending.to_string())
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let ids = self.group.devices.iter().map(|device| device.id.clone());
        ids.collect()
    }
}
