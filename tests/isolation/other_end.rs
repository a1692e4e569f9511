//! Who is at the other end of an attacker's control socket: the shipped supervisor of a VM that runs, or somebody who does all
//! that he is asked.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::deadline::{PROCESS, eventually};
use harness::process::{self, Process};
use harness::scratch::Scratch;
use harness::{bare_guest, proc_files, programs};
use protocol::supervisor::{ControlSocket, Received, Reply, Request};
use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketType;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process};

/// How the jailed stage of the VMM is called on its command line.
const STAGE_VMM: &str = "--stage-vmm";

/// Keeps the other end alive while an attacker tries.
#[derive(Debug)]
pub(crate) enum OtherEnd {
    /// A VM whose VMM is stopped: the attacker has its place.
    Shipped {
        vm: Process,
        vmm: Pid,
        _scratch: Scratch,
    },
    /// A thread of this process, which ends with the attacker.
    Obedient,
}

/// A supervisor that was shipped, and the socket on which its VMM talks to it.
pub(crate) fn shipped() -> Result<(OtherEnd, OwnedFd)> {
    let scratch = Scratch::new()?;
    let kernel = scratch.file("kernel");
    bare_guest::write(bare_guest::HALT, kernel.as_ref())?;
    let mut command = Command::new(programs::find(programs::VMM)?);
    command.args(["-m", "64M", "-serial", "none", "-kernel", &kernel]);
    let vm = Process::start("VMM", &mut command)?;
    let (vmm, socket) = eventually("the control socket of a VMM", PROCESS, || {
        let pid = vm.family().ok()?.into_iter().find(is_vmm)?;
        control_socket(pid).ok()
    })
    .with_context(|| vm.stderr().text())?;
    // It would take the answers.
    process::stop(vmm.as_raw_pid().cast_unsigned())?;
    let vm = OtherEnd::Shipped {
        vm,
        vmm,
        _scratch: scratch,
    };
    Ok((vm, socket))
}

/// One who does what he is asked, and waits for the second half of what is not whole.
pub(crate) fn obedient() -> Result<(OtherEnd, OwnedFd)> {
    let (ours, theirs) = ControlSocket::pair()?;
    std::thread::Builder::new().spawn(move || obey(&ours))?;
    Ok((OtherEnd::Obedient, theirs))
}

fn obey(socket: &ControlSocket) {
    let mut heard = Vec::new();
    loop {
        let _woken = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], None);
        match socket.receive(false) {
            Ok(Received::Packet(packet, _)) => heard.extend(packet),
            Ok(Received::Empty) => continue,
            Ok(Received::Closed) | Err(_) => return,
        }
        let Ok(request) = Request::decode(&heard) else {
            continue;
        };
        heard.clear();
        let number = request.number();
        let reply = match request {
            Request::Attach { .. } => Reply::Attached { number },
            Request::OpenImage { .. } => Reply::Opened { number },
            Request::Release { .. } | Request::CloseImage { .. } => Reply::Released { number },
        };
        // An asker who does not read his answers does without them.
        let _sent = socket.send(&reply.encode(), None);
    }
}

fn is_vmm(pid: &u32) -> bool {
    let words = proc_files::command_line(*pid);
    words.iter().any(|word| word == STAGE_VMM)
}

/// The one socket of packets that a VMM without devices has, and its process.
fn control_socket(pid: u32) -> Result<(Pid, OwnedFd)> {
    // Before its filters are there it may still be opening things.
    let filtered = proc_files::status_of_threads(pid, "Seccomp_filters")?;
    ensure!(filtered == ["3"], "it has {filtered:?} filters");
    let process = Pid::from_raw(pid.try_into()?).context("a pid")?;
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number = entry?.file_name().to_string_lossy().parse()?;
        let Ok(copy) = rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
        else {
            continue;
        };
        if rustix::net::sockopt::socket_type(&copy) == Ok(SocketType::SEQPACKET) {
            return Ok((process, copy));
        }
    }
    anyhow::bail!("it has no control socket")
}

impl OtherEnd {
    /// What was asked has cost neither the supervisor nor its VM their lives.
    pub(crate) fn must_be_unharmed(self) -> Result<()> {
        let OtherEnd::Shipped { mut vm, vmm, .. } = self else {
            return Ok(());
        };
        ensure!(
            vm.family()?.len() == 2,
            "the VM has ended: {}",
            vm.stderr().text()
        );
        kill_process(vmm, Signal::CONT)?;
        vm.signal(Signal::TERM)?;
        let status = vm.wait(PROCESS)?;
        // The supervisor's own word for a VM that SIGTERM ended.
        ensure!(
            status.code() == Some(143),
            "it ended with {status}: {}",
            vm.stderr().text()
        );
        Ok(())
    }
}
