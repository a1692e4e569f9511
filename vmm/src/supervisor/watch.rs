//! Waits for everything that can happen to the processes of a VM, in one poll, and reaps them.
//!
//! The VMM's end ends the VM: its servers notice by their sockets, reset their devices and exit, and are killed if they
//! do not. A signal to the supervisor is passed to the VMM as SIGTERM; the second one kills. If the supervisor itself
//! dies, the kernel kills its children.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use protocol::supervisor::{Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use sandbox::prepare::{ChildProcess, Ending};

use super::attach::Attachments;
use super::control::{Control, ControlEnd};
use super::deadline;
use super::servers::{Notice, ServerKey, Servers};
use super::signals::Signals;
use super::spawn::Connected;

/// Exit status of a process that a signal ended, as shells count it, minus the signal's number.
const KILLED_BY_SIGNAL: i32 = 128;

/// Why the VM did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    #[error("device {}: {reason}", ids.join(", "))]
    Server { ids: Vec<String>, reason: String },
    #[error("stopped by a signal before the VM had started")]
    Interrupted,
    #[error("wait for the processes of the VM")]
    Poll(#[source] io::Error),
}

/// The VMM process.
#[derive(Debug)]
struct Vmm {
    process: ChildProcess,
    asked_to_stop: bool,
    killed: bool,
    deadline: Option<Instant>,
}

/// All processes of one VM.
#[derive(Debug)]
pub(super) struct Watch {
    signals: Signals,
    pub(super) servers: Servers,
    pub(super) attachments: Attachments,
    vmm: Option<Vmm>,
    control: Option<Control>,
    /// What the supervisor will exit with.
    status: u8,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Signal,
    Ready(ServerKey),
    Server(ServerKey),
    Vmm,
    Control,
}

/// What happened, for the two phases to judge.
#[derive(Debug)]
enum Happening {
    Signal,
    Notice(Notice),
    VmmEnded(Ending),
    Request(Request),
    ControlEnd(ControlEnd),
}

impl Watch {
    pub(super) fn new(signals: Signals, attachments: Attachments) -> Watch {
        let servers = Servers::default();
        Watch {
            signals,
            servers,
            attachments,
            vmm: None,
            control: None,
            status: 0,
        }
    }

    /// Waits until all servers are ready, and returns the VMM's sockets. The first failure is the start's.
    pub(super) fn until_ready(&mut self) -> Result<Vec<Connected>, WatchError> {
        let mut connected = Vec::new();
        while self.servers.any_starting() {
            for happening in self.step()? {
                match happening {
                    Happening::Signal => return Err(WatchError::Interrupted),
                    Happening::Notice(Notice::Started(devices)) => connected.extend(devices),
                    Happening::Notice(Notice::Failed { ids, reason }) => {
                        return Err(WatchError::Server { ids, reason });
                    }
                    Happening::Notice(Notice::Lost { ids, ending, .. }) => {
                        let reason =
                            format!("its device server ended ({ending}) before the VM had started");
                        return Err(WatchError::Server { ids, reason });
                    }
                    Happening::Notice(
                        Notice::Finished { .. } | Notice::Ended { .. } | Notice::Stuck { .. },
                    )
                    | Happening::VmmEnded(_)
                    | Happening::Request(_)
                    | Happening::ControlEnd(_) => {}
                }
            }
        }
        Ok(connected)
    }

    /// Watches the VM until nothing of it is left. Returns what to exit with.
    pub(super) fn until_end(
        mut self,
        vmm: ChildProcess,
        control: Control,
    ) -> Result<u8, WatchError> {
        self.vmm = Some(Vmm {
            process: vmm,
            asked_to_stop: false,
            killed: false,
            deadline: None,
        });
        self.control = Some(control);
        while self.vmm.is_some() || !self.servers.is_empty() {
            for happening in self.step()? {
                match happening {
                    Happening::Signal => self.on_signal(),
                    Happening::Notice(notice) => self.on_notice(notice),
                    Happening::VmmEnded(ending) => self.on_vmm_end(ending),
                    Happening::Request(request) => self.on_request(request),
                    Happening::ControlEnd(end) => self.on_control_end(&end),
                }
            }
        }
        Ok(self.status)
    }

    /// Waits for the next events and takes them.
    fn step(&mut self) -> Result<Vec<Happening>, WatchError> {
        let sources = self.wait().map_err(WatchError::Poll)?;
        let mut happenings = Vec::new();
        for source in sources {
            happenings.extend(self.take(source));
        }
        let now = Instant::now();
        happenings.extend(self.servers.on_time(now).into_iter().map(Happening::Notice));
        self.kill_late_vmm(now);
        Ok(happenings)
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let now = Instant::now();
        let mut polled: Vec<(Source, BorrowedFd<'_>)> =
            vec![(Source::Signal, self.signals.as_fd())];
        polled.extend(
            self.servers
                .ready_fds()
                .map(|(key, fd)| (Source::Ready(key), fd)),
        );
        polled.extend(
            self.servers
                .pidfds()
                .map(|(key, fd)| (Source::Server(key), fd)),
        );
        polled.extend(
            self.vmm
                .as_ref()
                .map(|vmm| (Source::Vmm, vmm.process.pidfd())),
        );
        polled.extend(
            self.control
                .as_ref()
                .and_then(|control| Some((Source::Control, control.poll_fd(now)?))),
        );
        let deadlines = [
            self.servers.next_deadline(),
            self.vmm.as_ref().and_then(|vmm| vmm.deadline),
            self.control
                .as_ref()
                .and_then(|control| control.next_deadline(now)),
        ];
        let timeout = deadlines.into_iter().flatten().min().map(deadline::left);
        let timeout = timeout
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        let mut fds: Vec<PollFd<'_>> = polled
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = polled
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, _), _)| *source).collect())
    }

    fn take(&mut self, source: Source) -> Option<Happening> {
        match source {
            Source::Signal => self.signals.take().then_some(Happening::Signal),
            Source::Ready(key) => self.servers.on_ready_pipe(key).map(Happening::Notice),
            Source::Server(key) => self.servers.on_pidfd(key).map(Happening::Notice),
            Source::Vmm => self
                .vmm
                .as_mut()?
                .process
                .try_wait()
                .ok()
                .flatten()
                .map(Happening::VmmEnded),
            Source::Control => match self.control.as_mut()?.receive(Instant::now()) {
                Ok(request) => request.map(Happening::Request),
                Err(end) => Some(Happening::ControlEnd(end)),
            },
        }
    }

    /// The first signal asks, the second kills.
    fn on_signal(&mut self) {
        let Some(vmm) = &mut self.vmm else {
            let notices = self.servers.stop_now_all();
            notices
                .into_iter()
                .for_each(|notice| self.on_notice(notice));
            return;
        };
        if vmm.asked_to_stop {
            vmm.kill();
        } else {
            vmm.asked_to_stop = true;
            vmm.deadline = Some(Instant::now() + deadline::VMM_STOP);
            vmm.signal(Signal::TERM);
        }
    }

    fn kill_late_vmm(&mut self, now: Instant) {
        if let Some(vmm) = &mut self.vmm
            && vmm.deadline.is_some_and(|deadline| deadline <= now)
        {
            if vmm.killed {
                tracing::error!(
                    pid = vmm.process.pid(),
                    "The VMM was killed and does not end: it is stuck in the kernel"
                );
                self.on_vmm_end(Ending::Killed(Signal::KILL.as_raw()));
            } else {
                tracing::warn!(
                    "The VMM did not stop within {} s and is killed",
                    deadline::VMM_STOP.as_secs()
                );
                vmm.kill();
            }
        }
    }

    /// Its servers see their sockets close; from now on they have a deadline.
    fn on_vmm_end(&mut self, ending: Ending) {
        let asked = self.vmm.take().is_some_and(|vmm| vmm.asked_to_stop);
        self.control = None;
        self.status = match ending {
            Ending::Exited(status) => u8::try_from(status).unwrap_or(1),
            Ending::Killed(signal) => {
                if !asked {
                    eprintln!(
                        "bulkhead-vmm: the VMM process was ended by signal {signal}; the VM is gone"
                    );
                }
                u8::try_from(KILLED_BY_SIGNAL.saturating_add(signal)).unwrap_or(1)
            }
        };
        let notices = self.servers.let_go_all();
        notices
            .into_iter()
            .for_each(|notice| self.on_notice(notice));
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Started(devices) => {
                for (id, socket) in devices {
                    self.reply(&Reply::Attached { id }, Some(socket));
                }
            }
            Notice::Failed { ids, reason } => {
                tracing::warn!(?ids, reason, "A device server did not start");
                ids.iter()
                    .for_each(|id| self.reply(&Reply::refused(id, &reason), None));
            }
            Notice::Lost { ids, hosts, ending } => {
                tracing::error!(
                    ?ids,
                    hosts,
                    ending,
                    "A device server died; its devices are lost to the VM"
                );
                ids.into_iter()
                    .for_each(|id| self.attachments.add_without_server(id));
            }
            Notice::Finished { ids, hosts } => {
                tracing::info!(?ids, hosts, "The host has its devices back");
                ids.into_iter()
                    .for_each(|id| self.attachments.add_without_server(id));
            }
            Notice::Ended { ids, hosts } => {
                tracing::info!(?ids, hosts, "The host has its devices back");
                ids.into_iter()
                    .for_each(|id| self.reply(&Reply::Released { id }, None));
            }
            Notice::Stuck { hosts, pid } => {
                eprintln!(
                    "bulkhead-vmm: the device server of {hosts} (process {pid}) was killed and does not end: it is \
                     stuck in the kernel, see /proc/{pid}/stack"
                );
                self.status = 1;
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        if let Some((reply, socket)) = self.attachments.answer(&mut self.servers, request) {
            self.reply(&reply, socket);
        }
    }

    fn reply(&mut self, reply: &Reply, socket: Option<std::os::fd::OwnedFd>) {
        let sent = self
            .control
            .as_ref()
            .map_or(Ok(()), |control| control.reply(reply, socket));
        if let Err(end) = sent {
            self.on_control_end(&end);
        }
    }

    fn on_control_end(&mut self, end: &ControlEnd) {
        self.control = None;
        match end {
            ControlEnd::Closed => tracing::debug!("The VMM closed its control socket"),
            ControlEnd::Socket(_) | ControlEnd::Message(_) => {
                let reason = crate::one_line::one_line(end);
                tracing::error!(
                    reason,
                    "The VMM broke the control protocol: it can attach and release nothing more"
                );
            }
        }
    }
}

impl Vmm {
    fn kill(&mut self) {
        self.killed = true;
        self.deadline = Some(Instant::now() + deadline::KILLED);
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            tracing::error!(%error, pid = self.process.pid(), "The VMM cannot be sent a signal");
        }
    }
}
