//! The manual's hot-plug section with its own requests: the device comes into a root port of a running guest, which uses it,
//! and leaves it again.
//!
//! What goes over the QMP socket is shown as it is, with the seconds since the request; beside it what the guest's kernel says.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::host_device::HostDevice;
use harness::pattern::record_in_hex;
use harness::programs;
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use harness::vm::Vm;

use crate::guest_script::{PLUGGED_BLOCK, plugged};
use crate::{guest, say};

/// For the guest's driver to come and to go, with Linux's five seconds of blinking.
const MOVED: Duration = Duration::from_secs(60);
/// How often the guest's console is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn show(device: HostDevice<'_>, address: &str) -> Result<()> {
    say("starting a VM with an empty root port, and leave to plug the device later");
    let scratch = Scratch::new()?;
    let socket = scratch.file("qmp.sock");
    let port = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";
    let (policy, qmp) = (
        format!("allow-host={address}"),
        format!("unix:{socket},server,nowait"),
    );
    println!("    bulkhead-vmm ... -qmp {qmp} \\\n        -device {port} -device-policy {policy}");
    let arguments = [
        "-smp",
        "2",
        "-m",
        "512M",
        "-qmp",
        &qmp,
        "-device",
        port,
        "-device-policy",
        &policy,
    ];
    let vm = Vm::start(&arguments, &guest(&plugged(), address)?)?;
    vm.wait_for_mark("waits")?;
    let mut shown = Shown {
        qmp: Qmp::connect(&socket)?,
        console_lines: 0,
        vm,
        messages: 0,
        asked: Instant::now(),
    };
    shown.messages = shown.qmp.lines().count();
    shown.console_lines = shown.vm.console().lines().count();

    say("hot-plug: the supervisor starts a device server, the guest finds a device in its slot");
    shown.request(&format!(
        r#"{{"execute":"device_add", "arguments":{{"id":"vfio-0", "driver":"vfio-pci", "bus": "pcie.1", "addr":"0x0", "host": "{address}"}}}}"#
    ))?;
    shown.wait_for("BULKHEAD_DEVICE_READY")?;
    shown.vm.resume()?;
    shown.vm.wait_for_mark("used")?;
    shown.console();
    pattern_was_read(&shown.vm)?;

    say(
        "hot-unplug: the guest is asked; Linux blinks for five seconds, in which an operator at the slot could change his mind",
    );
    shown.request(r#"{"execute": "device_del", "arguments": {"id": "vfio-0"}}"#)?;
    shown.wait_for("DEVICE_DELETED")?;
    // At this moment, not a moment later.
    let node = node(device)?;
    let opened = File::options().read(true).write(true).open(&node);
    opened.with_context(|| format!("open {} after DEVICE_DELETED", node.display()))?;
    let servers = shown.vm.device_server_pids()?;
    ensure!(servers.is_empty(), "device servers still run: {servers:?}");
    say(&format!(
        "the device is free: {} opens, no device server runs, the guest goes on",
        node.display()
    ));
    shown.vm.resume()?;
    shown.vm.wait_for_line("GUEST-EXIT")?;
    shown.console();
    shown.vm.finish()?.succeeded()?;
    Ok(())
}

/// On the lab's disk it is known what the guest has to find.
fn pattern_was_read(vm: &Vm) -> Result<()> {
    if programs::in_lab() {
        let record = vm.wait_for_line("RECORD ")?;
        ensure!(
            record == record_in_hex(PLUGGED_BLOCK),
            "the guest read {record} in block {PLUGGED_BLOCK}"
        );
        println!("    that is what the host wrote there");
    }
    Ok(())
}

/// What can be opened by one process at a time: the device's group.
fn node(device: HostDevice<'_>) -> Result<PathBuf> {
    Ok(PathBuf::from("/dev/vfio").join(device.group()?))
}

/// The VM, and what the reader has seen of it.
struct Shown {
    vm: Vm,
    qmp: Qmp,
    messages: usize,
    console_lines: usize,
    asked: Instant,
}

impl Shown {
    /// Sends a command, which must succeed.
    fn request(&mut self, command: &str) -> Result<()> {
        self.asked = Instant::now();
        println!("    {:>6.2} s  -> {command}", 0.0);
        let answer = self.qmp.succeed(command);
        self.replies();
        answer.map(drop)
    }

    /// Waits for an event, and shows meanwhile what the guest does.
    fn wait_for(&mut self, event: &str) -> Result<()> {
        let end = Instant::now() + MOVED;
        loop {
            let came = self.qmp.event_within(event, LOOK)?.is_some();
            self.replies();
            self.console();
            if came {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "no {event} within {MOVED:?}; the VM's log:\n{}",
                self.vm.log()
            );
        }
    }

    fn replies(&mut self) {
        let seconds = self.asked.elapsed().as_secs_f64();
        for line in self.qmp.lines().skip(self.messages) {
            println!("    {seconds:>6.2} s  <- {line}");
            self.messages += 1;
        }
    }

    /// What the guest's script shows, and its kernel says of the slot and of what is in it.
    fn console(&mut self) {
        let text = self.vm.console();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for line in whole.lines().skip(self.console_lines) {
            self.console_lines += 1;
            if let Some(line) = line.strip_prefix("SHOW ") {
                println!("    guest: {line}");
            } else if line.starts_with('[')
                && (line.contains("pciehp") || line.contains("0000:01:"))
            {
                println!("    guest's kernel: {line}");
            }
        }
    }
}
