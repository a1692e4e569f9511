//! A VM with hot-plug slots, a QMP client, and a guest that runs what the test tells it.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
pub(crate) use harness::guest::OBEY;
use harness::guest::{Guest, GuestReport};
use harness::host_device::{HostDevice, NVME};
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use harness::vm::Vm;
use serde_json::Value;

/// From the removal's request to its event, with Linux's five seconds of blinking, in a guest that is emulated twice.
pub(crate) const UNPLUG: Duration = Duration::from_secs(60);
/// From the plug to the guest's driver.
pub(crate) const PLUG: Duration = Duration::from_secs(60);

/// Until a VM that does not start has said why.
const ENDED: Duration = Duration::from_secs(3);

/// The manual's root port.
pub(crate) const PORT: &str = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";

/// A controller of the lab's board that cannot be reset.
pub(crate) const NO_RESET: &str = "0000:00:1f.2";

/// What `add_nvme` takes for a device that is taken from its host driver.
pub(crate) const MANAGED: &str = r#","managed":true"#;

/// For the tests in which two CPUs of the guest may be in each other's way; all others have one, which boots in two thirds of the time.
pub(crate) const TWO_CPUS: [&str; 2] = ["-smp", "2"];

/// `device_add` of the lab's NVMe behind pcie.1, with more properties as JSON (`,"key":value`).
pub(crate) fn add_nvme(id: &str, more: &str) -> String {
    format!(
        r#"{{"execute":"device_add","arguments":{{"id":"{id}","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"{more}}}}}"#
    )
}

pub(crate) fn behind_port(options: &str) -> String {
    format!("vfio-pci,host={NVME},id=disk,bus=pcie.1,addr=0x0{options}")
}

/// The NVMe is behind pcie.1 from the start.
pub(crate) fn cold_plugged(options: &str) -> Result<Machine> {
    cold_plugged_with(&[], options)
}

/// The same with more arguments.
pub(crate) fn cold_plugged_with(arguments: &[&str], options: &str) -> Result<Machine> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = behind_port(options);
    let devices = ["-device", PORT, "-device", &device];
    let mut machine = Machine::start(&[arguments, &devices].concat())?;
    machine.guest("wait_for /dev/nvme0n1")?;
    Ok(machine)
}

/// The NVMe's group can be opened: nobody holds anything of it.
pub(crate) fn group_is_free() -> Result<()> {
    is_free(NVME)
}

/// The same of another device.
pub(crate) fn is_free(host: &str) -> Result<()> {
    let group = format!("/dev/vfio/{}", HostDevice::at(host).group()?);
    let mut options = File::options();
    options.read(true).write(true);
    let opened = options.open(&group).map(drop);
    opened.with_context(|| format!("open {group}"))
}

/// The VM, its client, and its guest.
pub(crate) struct Machine {
    pub(crate) vm: Vm,
    pub(crate) qmp: Qmp,
    pub(crate) socket: String,
    commands: usize,
    _scratch: Scratch,
}

impl Machine {
    /// Starts a VM with `arguments` and a QMP socket; the guest has not booted yet.
    pub(crate) fn boot(arguments: &[&str]) -> Result<Self> {
        Self::boot_guest(arguments, &Guest::running(OBEY))
    }

    /// The same with a guest of the test's own.
    pub(crate) fn boot_guest(arguments: &[&str], guest: &Guest) -> Result<Self> {
        let arguments = [&["-no-reboot"], arguments].concat();
        Self::boot_guest_that_reboots(&arguments, guest)
    }

    pub(crate) fn boot_guest_that_reboots(arguments: &[&str], guest: &Guest) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.file("qmp.sock");
        let qmp = format!("unix:{socket},server,nowait");
        let mut all = vec!["-m", "256M", "-qmp", &qmp];
        all.extend_from_slice(arguments);
        let mut vm = Vm::start_that_reboots(&all, guest)?;
        let qmp = Qmp::connect(&socket).map_err(|error| {
            // If the VMM has ended, its reason comes a moment later.
            let end = vm.process().wait(ENDED);
            error.context(format!("{end:?}; the VM's log:\n{}", vm.log()))
        })?;
        Ok(Self {
            vm,
            qmp,
            socket,
            commands: 0,
            _scratch: scratch,
        })
    }

    /// Waits for an event; gives its data. An error shows what the VM's processes logged.
    pub(crate) fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let event = self.qmp.wait_for_event(name, limit);
        event.with_context(|| format!("the VM's log:\n{}", self.vm.log()))
    }

    /// A command that must succeed. An error shows what the VM's processes logged.
    pub(crate) fn succeed(&mut self, command: &str) -> Result<Value> {
        let answer = self.qmp.succeed(command);
        answer.with_context(|| format!("the VM's log:\n{}", self.vm.log()))
    }

    /// Starts it, and waits until the guest obeys.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let machine = Self::boot(arguments)?;
        machine.vm.wait_for_line("OBEY")?;
        Ok(machine)
    }

    /// The same without `-no-reboot`.
    pub(crate) fn start_that_reboots(arguments: &[&str]) -> Result<Self> {
        let machine = Self::boot_guest_that_reboots(arguments, &Guest::running(OBEY))?;
        machine.vm.wait_for_line("OBEY")?;
        Ok(machine)
    }

    /// Runs a line of shell in the guest; it must succeed. Gives what it printed.
    pub(crate) fn guest(&mut self, line: &str) -> Result<String> {
        let before = self.vm.console().len();
        self.tell(line)?;
        let status = self.done()?;
        let console = self.vm.console();
        let output = console.get(before..).unwrap_or_default().to_owned();
        ensure!(
            status == "0",
            "the guest's {line:?} ended with {status}:\n{output}"
        );
        Ok(output)
    }

    /// Starts a line of shell in the guest.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        self.vm.process().write_line(line)
    }

    /// Waits until the line is done; gives its status.
    pub(crate) fn done(&mut self) -> Result<String> {
        let status = self.vm.wait_for_line(&format!("DONE {} ", self.commands))?;
        self.commands += 1;
        Ok(status)
    }

    /// The guest leaves and powers off; everything of the VM must end.
    pub(crate) fn finish(mut self) -> Result<GuestReport> {
        self.tell("leave")?;
        self.end()
    }

    /// The guest powers off by itself; everything of the VM must end.
    pub(crate) fn end(self) -> Result<GuestReport> {
        self.vm.finish()?.succeeded()
    }

    /// Plugs the NVMe as `disk`, has the guest run `line` with it, unplugs it, and ends well.
    pub(crate) fn takes_the_disk(mut self, line: &str) -> Result<()> {
        self.qmp.succeed(&add_nvme("disk", ""))?;
        self.event("BULKHEAD_DEVICE_READY", PLUG)?;
        self.guest(line)?;
        self.unplug("disk")?;
        self.finish()?;
        Ok(())
    }

    /// `device_del` of a device whose guest lets go of it.
    pub(crate) fn unplug(&mut self, id: &str) -> Result<()> {
        self.qmp.succeed(&format!(
            r#"{{"execute":"device_del","arguments":{{"id":"{id}"}}}}"#
        ))?;
        let data = self.event("DEVICE_DELETED", UNPLUG)?;
        ensure!(data["device"] == id, "DEVICE_DELETED of {data}");
        Ok(())
    }
}
