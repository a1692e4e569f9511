//! What a transfer costs outside the guest: messages of the device server, exits of the VMM, context switches.
//!
//! The messages are the send and receive calls that strace sees the device server make; without strace they are not
//! counted, and the table says so.

use std::process::Command;

use anyhow::{Context, Result};
use harness::deadline::{PROCESS, eventually};
use harness::kvm_statistics::KvmStatistics;
use harness::proc_files::context_switches;
use harness::process::Process;
use rustix::process::Signal;

use crate::guest_script::READS;

/// Counts from `start` to `stop`.
pub(crate) struct Meter {
    vmm: u32,
    server: u32,
    strace: Option<Process>,
    exits: KvmStatistics,
    switches: u64,
}

/// What was counted.
pub(crate) struct Cost {
    messages: Option<usize>,
    exits: KvmStatistics,
    switches: u64,
}

impl Meter {
    pub(crate) fn start(vmm: u32, server: u32) -> Result<Self> {
        let strace = attach(server);
        if let Err(error) = &strace {
            println!("    (messages are not counted: {error:#})");
        }
        Ok(Self {
            vmm,
            server,
            strace: strace.ok(),
            exits: KvmStatistics::of(vmm)?,
            switches: settled_switches(server)?,
        })
    }

    pub(crate) fn stop(self) -> Result<Cost> {
        let exits = KvmStatistics::of(self.vmm)?.since(self.exits);
        let switches = context_switches(self.server)? - self.switches;
        let messages = self.strace.map(messages).transpose()?;
        Ok(Cost {
            messages,
            exits,
            switches,
        })
    }
}

fn attach(server: u32) -> Result<Process> {
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-e",
        "trace=sendmsg,recvmsg,sendto,recvfrom",
        "-p",
        &server.to_string(),
    ]);
    let strace = Process::start("strace", &mut command).context("strace is not installed")?;
    strace.stderr().wait_for_line("strace: Process", PROCESS)?;
    Ok(strace)
}

fn messages(mut strace: Process) -> Result<usize> {
    strace.signal(Signal::INT)?;
    strace.wait(PROCESS)?;
    let calls = strace.stderr().text();
    Ok(calls.lines().filter(|line| moved_bytes(line)).count())
}

/// "sendmsg(5, {...}, MSG_NOSIGNAL) = 24"; a call that the tracing itself broke off has no such end.
fn moved_bytes(call: &str) -> bool {
    let is_message = call.contains("sendmsg") || call.contains("recvmsg");
    let end = call
        .rsplit_once(" = ")
        .and_then(|(_, bytes)| bytes.trim().parse::<u64>().ok());
    is_message && end.is_some_and(|bytes| bytes > 0)
}

/// Attaching a tracer wakes the process: waits until it sleeps again.
fn settled_switches(pid: u32) -> Result<u64> {
    let mut last = None;
    eventually("the device server sleeps", PROCESS, || {
        let now = context_switches(pid).ok()?;
        let same = last.replace(now) == Some(now);
        same.then_some(now)
    })
}

impl Cost {
    /// Totals and shares of one read.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("    {:<58} {:>8} {:>9}\n", "", "all", "per read");
        let mut row = |name: &str, count: Option<u64>| {
            let line = match count {
                Some(count) => {
                    let share = f64::from(u32::try_from(count).unwrap_or(u32::MAX))
                        / f64::from(u32::try_from(READS).unwrap_or(u32::MAX));
                    format!("    {name:<58} {count:>8} {share:>9.3}\n")
                }
                None => format!("    {name:<58} {:>8} {:>9}\n", "?", "?"),
            };
            text.push_str(&line);
        };
        row(
            "vfio-user messages that the device server handled",
            self.messages.and_then(|count| u64::try_from(count).ok()),
        );
        row(
            "exits to the VMM for the device's memory (mmio_exits)",
            Some(self.exits.mmio_exits),
        );
        row(
            "exits to the VMM for ports (the serial console)",
            Some(self.exits.io_exits),
        );
        row("context switches of the device server", Some(self.switches));
        text
    }
}
