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
use telemetry::security::Event;

use super::attach::{Answer, Attachments, Outcome};
use super::control::{Control, ControlEnd};
use super::deadline;
use super::server::Notice;
use super::servers::{ServerKey, Servers};
use super::signals::Signals;
use super::spawn::Connected;
use super::vmm_process::VmmProcess;

mod notices;

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

/// All processes of one VM.
#[derive(Debug)]
pub(super) struct Watch {
    signals: Signals,
    pub(super) servers: Servers,
    pub(super) attachments: Attachments,
    vmm: Option<VmmProcess>,
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
    Errand,
}

/// What happened, for the two phases to judge.
#[derive(Debug)]
enum Happening {
    Signal,
    Notice(Notice),
    VmmEnded(Ending),
    Request(Request),
    /// The answer to an earlier request.
    Answer(Answer),
    ControlEnd(ControlEnd),
}

impl Watch {
    pub(super) fn new(signals: Signals, attachments: Attachments) -> Watch {
        let servers = Servers::new();
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
                    Happening::Notice(
                        Notice::Started { devices, .. } | Notice::Connected { devices, .. },
                    ) => {
                        connected.extend(devices);
                    }
                    Happening::Notice(Notice::Failed { ids, reason, .. }) => {
                        return Err(WatchError::Server { ids, reason });
                    }
                    Happening::Notice(Notice::Lost { ids, ending, .. }) => {
                        let reason =
                            format!("its device server ended ({ending}) before the VM had started");
                        return Err(WatchError::Server { ids, reason });
                    }
                    Happening::Notice(
                        Notice::Finished { .. }
                        | Notice::Ended { .. }
                        | Notice::Held { .. }
                        | Notice::VmmKeeps { .. },
                    )
                    | Happening::VmmEnded(_)
                    | Happening::Request(_)
                    | Happening::Answer(_)
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
        self.vmm = Some(VmmProcess::new(vmm));
        self.control = Some(control);
        while self.vmm.is_some() || !self.is_settled() {
            for happening in self.step()? {
                match happening {
                    Happening::Signal => self.on_signal(),
                    Happening::Notice(notice) => self.on_notice(notice),
                    Happening::VmmEnded(ending) => self.on_vmm_end(ending),
                    Happening::Request(request) => self.on_request(request),
                    Happening::Answer((reply, socket)) => self.reply(&reply, socket),
                    Happening::ControlEnd(end) => self.on_control_end(&end),
                }
            }
        }
        Ok(self.status)
    }

    fn is_settled(&self) -> bool {
        self.servers.is_settled() && self.attachments.managed.is_settled()
    }

    /// Waits for the next events and takes them.
    fn step(&mut self) -> Result<Vec<Happening>, WatchError> {
        let sources = self.wait().map_err(WatchError::Poll)?;
        let mut happenings = Vec::new();
        for source in sources {
            happenings.extend(self.take(source));
        }
        let now = Instant::now();
        let vmm = self.vmm.as_ref().map(VmmProcess::pid);
        let notices = self.servers.on_time(now, vmm);
        happenings.extend(notices.into_iter().map(Happening::Notice));
        let has_vmm = self.vmm.is_some();
        let answers = self.attachments.on_time(&mut self.servers, now, has_vmm);
        happenings.extend(answers.into_iter().map(Happening::Answer));
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
        polled.extend(self.vmm.as_ref().map(|vmm| (Source::Vmm, vmm.pidfd())));
        let errands = self.attachments.pidfds();
        polled.extend(errands.map(|fd| (Source::Errand, fd)));
        polled.extend(
            self.control
                .as_ref()
                .and_then(|control| Some((Source::Control, control.poll_fd(now)?))),
        );
        let deadlines = [
            self.servers.next_deadline(),
            self.attachments.next_deadline(),
            self.vmm.as_ref().and_then(VmmProcess::deadline),
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

    fn take(&mut self, source: Source) -> Vec<Happening> {
        match source {
            Source::Signal if self.signals.take() => vec![Happening::Signal],
            // What an errand has done is looked for at every step.
            Source::Signal | Source::Errand => Vec::new(),
            Source::Ready(key) => {
                let notices = self.servers.on_ready_pipe(key);
                notices.into_iter().map(Happening::Notice).collect()
            }
            Source::Server(key) => {
                let notices = self.servers.on_pidfd(key);
                notices.into_iter().map(Happening::Notice).collect()
            }
            Source::Vmm => {
                let ended = self.vmm.as_mut().and_then(VmmProcess::ending);
                ended.map(Happening::VmmEnded).into_iter().collect()
            }
            Source::Control => {
                let Some(control) = &mut self.control else {
                    return Vec::new();
                };
                match control.receive(Instant::now()) {
                    Ok(request) => request.map(Happening::Request).into_iter().collect(),
                    Err(end) => vec![Happening::ControlEnd(end)],
                }
            }
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
        vmm.stop();
    }

    fn kill_late_vmm(&mut self, now: Instant) {
        if let Some(vmm) = &mut self.vmm
            && vmm.is_stuck(now)
        {
            self.on_vmm_end(Ending::Killed(Signal::KILL.as_raw()));
        }
    }

    /// Its servers see their sockets close; from now on they have a deadline.
    fn on_vmm_end(&mut self, ending: Ending) {
        let asked = self.vmm.take().is_some_and(|vmm| vmm.was_asked_to_stop());
        self.control = None;
        self.status = match ending {
            Ending::Exited(status) => u8::try_from(status).unwrap_or(1),
            Ending::Killed(signal) => {
                if signal == Signal::SYS.as_raw() {
                    let detail = "a system call that its role does not allow";
                    Event::SandboxBroken.report(None, "VMM", detail, "The VMM was killed");
                }
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

    fn on_request(&mut self, request: Request) {
        match self.attachments.answer(&mut self.servers, request) {
            Outcome::Answer((reply, socket)) => self.reply(&reply, socket),
            Outcome::Later => {}
            Outcome::Notice(notice) => self.on_notice(notice),
        }
    }

    fn answer(&mut self, answers: Vec<Answer>) {
        for (reply, socket) in answers {
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
                let message = "The VMM broke the control protocol: it can ask for nothing more";
                Event::ControlBroken.report(None, "VMM", &reason, message);
            }
        }
    }
}
