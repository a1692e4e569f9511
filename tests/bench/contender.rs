//! A VM of ours or of QEMU with the same guest, the same devices and a QMP socket: what is compared.
//!
//! QEMU is the lab's own, which scripts/bench copies into the lab machine. Its root ports have native hot-plug as ours do: with
//! QEMU's default, ACPI hot-plug, Linux does not blink, and nothing of a slot is compared.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::deadline::{GUEST_RUN, PROCESS};
use harness::guest::{Guest, GuestReport};
use harness::process::Process;
use harness::programs;
use harness::qmp::Qmp;
use harness::scratch::Scratch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vmm {
    Ours,
    Qemu,
}

pub(crate) const BOTH: [Vmm; 2] = [Vmm::Ours, Vmm::Qemu];

impl Vmm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Qemu => "QEMU",
        }
    }

    fn command(self) -> Result<Command> {
        let mut command = Command::new(programs::find(match self {
            Self::Ours => programs::VMM,
            Self::Qemu => "qemu/run",
        })?);
        command.args(["-machine", "q35", "-cpu", "host", "-serial", "stdio"]);
        command.args(["-no-reboot", "-smp", "2", "-m", "512M"]);
        if self == Self::Qemu {
            command.args(["-accel", "kvm", "-nodefaults", "-display", "none"]);
            command.args([
                "-global",
                "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            ]);
        }
        Ok(command)
    }
}

/// Both, the first of them another one in each pair.
pub(crate) fn in_turn(pair: usize) -> [Vmm; 2] {
    let [first, second] = BOTH;
    if pair.is_multiple_of(2) {
        [first, second]
    } else {
        [second, first]
    }
}

/// A running one.
pub(crate) struct Machine {
    process: Process,
    socket: String,
    started: Instant,
    commands: usize,
    _scratch: Scratch,
}

impl Machine {
    pub(crate) fn start(vmm: Vmm, arguments: &[&str], guest: &Guest) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.file("qmp.sock");
        let mut command = vmm.command()?;
        command.args(["-qmp", &format!("unix:{socket},server=on,wait=off")]);
        command
            .args(guest.arguments(scratch.path())?)
            .args(arguments);
        let started = Instant::now();
        Ok(Self {
            process: Process::start(vmm.name(), &mut command)?,
            socket,
            started,
            commands: 0,
            _scratch: scratch,
        })
    }

    pub(crate) fn qmp(&self) -> Result<Qmp> {
        let qmp = Qmp::connect(&self.socket);
        qmp.with_context(|| format!("it said:\n{}", self.process.stderr().text()))
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// What its processes logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.stderr().text()
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for a line of the guest's console that starts with `start`; gives the rest of the line.
    pub(crate) fn wait_for_line(&self, start: &str) -> Result<String> {
        let found = self.process.stdout().wait_for_line(start, GUEST_RUN);
        found.with_context(|| format!("it said:\n{}", self.process.stderr().text()))
    }

    /// Starts a line of shell in a guest that runs `OBEY`.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        self.process.write_line(line)
    }

    /// Waits until that line is done, which must succeed. Gives what the guest printed since it was started.
    pub(crate) fn done(&mut self) -> Result<String> {
        let number = self.commands;
        let status = self.wait_for_line(&format!("DONE {number} "))?;
        self.commands += 1;
        let console = self.process.stdout().text();
        let before = match number.checked_sub(1) {
            Some(last) => format!("\nDONE {last} "),
            None => "\nOBEY".to_owned(),
        };
        let output = console
            .split_once(&before)
            .map_or("", |(_, after)| after)
            .to_owned();
        ensure!(
            status == "0",
            "the guest's line ended with {status}:\n{output}"
        );
        Ok(output)
    }

    pub(crate) fn obey(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.done()
    }

    /// Waits until the guest has powered off.
    pub(crate) fn finish(mut self) -> Result<GuestReport> {
        let status = self.process.wait(GUEST_RUN + PROCESS)?;
        let console = self.process.stdout().text();
        let said = self.process.stderr().text();
        ensure!(status.success(), "it ended with {status}:\n{said}");
        GuestReport::parse(&console).context(said)?.succeeded()
    }
}
