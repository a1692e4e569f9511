//! A VM: `bulkhead-vmm` with its guest's console on stdio, and the processes that belong to it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::deadline::{GUEST_RUN, PROCESS, eventually};
use crate::guest::{Guest, GuestReport};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{proc_files, programs};

/// How the jailed stage of the VMM is called on its command line.
const STAGE_VMM: &str = "--stage-vmm";

/// Until a device server waits for a device. The supervisor leaves the VM alone for 5 s first.
const SPARE: Duration = Duration::from_secs(30);

/// Who starts a VM.
#[derive(Debug, Clone, Copy)]
pub struct User {
    /// User and group.
    pub number: u32,
    /// What it may pin.
    pub locked_bytes: u64,
}

/// A running VM, killed when dropped.
#[derive(Debug)]
pub struct Vm {
    process: Process,
    started: Instant,
    started_monotonic_ms: i64,
    _scratch: Scratch,
}

impl Vm {
    /// Starts a VM with `arguments`, after `-machine q35 -cpu host -serial stdio -no-reboot` and what boots `guest`.
    pub fn start(arguments: &[&str], guest: &Guest) -> Result<Self> {
        let mut all = vec!["-no-reboot"];
        all.extend_from_slice(arguments);
        Self::start_that_reboots(&all, guest)
    }

    /// The same as a user without privilege.
    pub fn start_as(user: User, arguments: &[&str], guest: &Guest) -> Result<Self> {
        let before = getrlimit(Resource::Memlock);
        let limit = Some(user.locked_bytes);
        // Of this process: what it starts inherits it.
        setrlimit(
            Resource::Memlock,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )?;
        let all = [&["-no-reboot"], arguments].concat();
        let started = Self::launch(&all, guest, |command| {
            command.uid(user.number).gid(user.number);
        });
        setrlimit(Resource::Memlock, before)?;
        started
    }

    /// Without `-no-reboot`.
    pub fn start_that_reboots(arguments: &[&str], guest: &Guest) -> Result<Self> {
        Self::launch(arguments, guest, |_| ())
    }

    fn launch(
        arguments: &[&str],
        guest: &Guest,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut command = Command::new(programs::find(programs::VMM)?);
        command.args(["-machine", "q35", "-cpu", "host", "-serial", "stdio"]);
        command
            .args(guest.arguments(scratch.path())?)
            .args(arguments);
        prepare(&mut command);
        let started = Instant::now();
        let started_monotonic_ms = monotonic_ms();
        let process = Process::start("VMM", &mut command)?;
        Ok(Self {
            process,
            started,
            started_monotonic_ms,
            _scratch: scratch,
        })
    }

    /// Waits until the guest's script says `pause NAME`.
    pub fn wait_for_mark(&self, name: &str) -> Result<()> {
        self.wait_for_line(&format!("MARK {name}")).map(drop)
    }

    /// Lets the guest's script go on after a `pause`.
    pub fn resume(&mut self) -> Result<()> {
        self.process.write_line("go")
    }

    /// Waits for a line of the guest's console that starts with `start`; gives the rest of the line.
    pub fn wait_for_line(&self, start: &str) -> Result<String> {
        let found = self.process.stdout().wait_for_line(start, GUEST_RUN);
        found.with_context(|| format!("the VMM's stderr:\n{}", self.process.stderr().text()))
    }

    /// Time since the VMM was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time from the VMM's start to the first byte on the guest's serial port.
    pub fn first_byte_after(&self) -> Option<Duration> {
        let first = self.process.stdout().first_byte()?;
        Some(first.duration_since(self.started))
    }

    /// When the VMM was started, by the clock that its log lines give as `monotonic_ms`.
    pub fn started_monotonic_ms(&self) -> i64 {
        self.started_monotonic_ms
    }

    /// What the guest printed so far.
    pub fn console(&self) -> String {
        self.process.stdout().text()
    }

    /// What the VM's processes logged so far.
    pub fn log(&self) -> String {
        self.process.stderr().text()
    }

    /// The process of the VM that a signal should go to, and all others: what the user started.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Pid of the process that runs the guest.
    pub fn vmm_pid(&self) -> Result<u32> {
        eventually("the VMM's second stage", PROCESS, || {
            let is_stage = |pid: &u32| {
                proc_files::command_line(*pid)
                    .iter()
                    .any(|word| word == STAGE_VMM)
            };
            self.process.family().ok()?.into_iter().find(is_stage)
        })
    }

    /// Pids of the device servers that this VM's supervisor started for a device.
    pub fn device_server_pids(&self) -> Result<Vec<u32>> {
        let mut servers = self.all_device_server_pids()?;
        servers.retain(|pid| !proc_files::is_spare(*pid));
        Ok(servers)
    }

    /// Pid of the device server that waits for a device, once it does, of a VM that may be given one.
    pub fn spare_pid(&self) -> Result<u32> {
        eventually("a device server that waits", SPARE, || {
            let mut servers = self.all_device_server_pids().ok()?;
            servers.retain(|pid| proc_files::is_waiting_spare(*pid));
            servers.first().copied()
        })
    }

    fn all_device_server_pids(&self) -> Result<Vec<u32>> {
        let servers = proc_files::running(programs::DEVICE_SERVER)?;
        let mut family = self.process.family()?;
        family.retain(|pid| servers.contains(pid));
        Ok(family)
    }

    /// Pids of all processes of the VM, the supervisor included.
    pub fn all_pids(&self) -> Result<Vec<u32>> {
        self.process.family()
    }

    /// Waits until the guest powered off and every process of the VM is gone; the VMM must say that all went well.
    pub fn finish(mut self) -> Result<GuestReport> {
        let status = self.process.wait(GUEST_RUN)?;
        let (console, stderr) = (self.process.stdout().text(), self.process.stderr().text());
        ensure!(
            status.success(),
            "the VMM ended with {status}; its stderr:\n{stderr}the console:\n{}",
            crate::console::tail(&console)
        );
        eventually("the end of all processes of the VM", PROCESS, || {
            self.process.family().ok()?.is_empty().then_some(())
        })?;
        GuestReport::parse(&console).with_context(|| format!("the VMM's stderr:\n{stderr}"))
    }
}

fn monotonic_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
