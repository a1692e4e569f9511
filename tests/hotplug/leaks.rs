//! What a hundred plugs would add up to: nothing may grow from one to the next.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::deadline::eventually;
use harness::guest::Guest;
use harness::host_device::{E1000E, HostDevice, NVME};
use harness::proc_files;
use serde_json::Value;

use crate::machine::{Machine, OBEY, PLUG, PORT, UNPLUG, add_nvme, is_free};

const CYCLES: usize = 3;
/// Cycles for what is made once: the allocator's heaps, caches.
const WARM_UP: usize = 3;
/// What the processes may grow by, in KiB: twice the message buffers of two devices. The allocator keeps what it had, and a buffer
/// may come from another of its heaps than the one before it.
const GROWTH: u64 = 8192;
/// For threads that end to give back what they have.
const SETTLED: Duration = Duration::from_secs(20);

/// How often a test of this kind repeats: HOTPLUG_CYCLES (scripts/soak), or this often.
pub(crate) fn cycles(usual: usize) -> Result<usize> {
    match std::env::var("HOTPLUG_CYCLES") {
        Ok(cycles) => cycles.parse().context("HOTPLUG_CYCLES"),
        Err(_) => Ok(usual),
    }
}

/// What the processes of a VM hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    processes: usize,
    files: Vec<usize>,
    eventfds: usize,
    mappings: usize,
    threads: usize,
    memory_slots: Value,
    interrupt_routes: Value,
}

/// And how much memory, which never is exactly as before.
pub(crate) struct Before {
    held: Held,
    memory_kib: u64,
}

impl std::fmt::Debug for Before {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}, {} KiB", self.held, self.memory_kib)
    }
}

/// Once a server waits for the next device, as one did before each plug.
pub(crate) fn held(machine: &mut Machine) -> Result<Before> {
    machine.vm.spare_pid()?;
    let kvm = machine.qmp.succeed(r#"{"execute":"query-kvm"}"#)?;
    let vmm = machine.vm.vmm_pid()?;
    let pids = machine.vm.all_pids()?;
    let mut files = Vec::new();
    for pid in &pids {
        files.push(proc_files::open_files(*pid)?);
    }
    let eventfds = files.iter().flatten();
    let memory = pids.iter().map(|pid| anonymous_memory_kib(*pid));
    Ok(Before {
        held: Held {
            processes: pids.len(),
            eventfds: eventfds.filter(|file| file.contains("[eventfd]")).count(),
            files: files.iter().map(Vec::len).collect(),
            mappings: proc_files::mappings(vmm)?
                .iter()
                .filter(|mapping| mapping.permissions.ends_with('s'))
                .count(),
            threads: std::fs::read_dir(format!("/proc/{vmm}/task"))?.count(),
            memory_slots: kvm["memory-slots"].clone(),
            interrupt_routes: kvm["interrupt-routes"].clone(),
        },
        memory_kib: memory.sum::<Result<u64>>()?,
    })
}

/// Memory of its own, without what it shares with the guest.
fn anonymous_memory_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let size = line.context("RssAnon")?.trim().trim_end_matches(" kB");
    size.parse().context("RssAnon is a number")
}

pub(crate) fn holds_no_more_than(machine: &mut Machine, before: &Before) -> Result<()> {
    let settled = eventually("what a thread that ends still holds", SETTLED, || {
        held(machine).ok().filter(|after| after.held == before.held)
    });
    let after = held(machine)?;
    ensure!(settled.is_ok(), "before {before:?}, after {after:?}");
    ensure!(
        after.memory_kib <= before.memory_kib + GROWTH,
        "before {before:?}, after {after:?}"
    );
    println!("held before {before:?}, after {after:?}");
    Ok(())
}

const PING: &str = "wait_for /sys/class/net/eth0; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; \
    tries=0; until ping -c 1 -W 1 10.0.2.2 >/dev/null || [ $tries -gt 30 ]; do tries=$((tries + 1)); done; \
    ping -c 3 -i 0.1 10.0.2.2 | grep -q ' 0% packet loss'";
const READ: &str = "wait_for /dev/nvme0n1; \
    (while dd if=/dev/nvme0n1 of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done) &";
const KEEP_PINGING: &str =
    "(while ping -c 1 -s 1400 -W 1 10.0.2.2; do :; done) >/dev/null 2>&1 & sleep 0.3";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn disk_and_network_card_come_and_go_under_io_and_leave_nothing() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    HostDevice::at(E1000E).give_to_vfio()?;
    let (disk, net) = (format!("allow-host={NVME}"), format!("allow-host={E1000E}"));
    let mut machine = Machine::boot_guest(
        &[
            "-smp",
            "2",
            "-device",
            PORT,
            "-device",
            "pcie-root-port,id=pcie.2,port=0x2,bus=pcie.0,addr=0x2",
            "-device-policy",
            &disk,
            "-device-policy",
            &net,
        ],
        &Guest::running(OBEY).with_all_drivers(),
    )?;
    machine.vm.wait_for_line("OBEY")?;
    let mut before = None;
    let start = Instant::now();
    for cycle in 0..WARM_UP + cycles(CYCLES)? {
        machine.qmp.succeed(&add_nvme("disk", ""))?;
        machine.qmp.succeed(&format!(
            r#"{{"execute":"device_add","arguments":{{"id":"net","driver":"vfio-pci","bus":"pcie.2","addr":"0x0","host":"{E1000E}"}}}}"#
        ))?;
        machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
        machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
        machine.guest(READ)?;
        machine.guest(PING)?;
        machine.guest(KEEP_PINGING)?;
        for id in ["net", "disk"] {
            machine.qmp.succeed(&format!(
                r#"{{"execute":"device_del","arguments":{{"id":"{id}"}}}}"#
            ))?;
        }
        for _ in 0..2 {
            let data = machine.event("DEVICE_DELETED", UNPLUG)?;
            is_free(if data["device"] == "disk" {
                NVME
            } else {
                E1000E
            })?;
        }
        machine.guest("! [ -e /dev/nvme0n1 ] && ! [ -e /sys/class/net/eth0 ]")?;
        match &before {
            Some(before) => holds_no_more_than(&mut machine, before)?,
            None if cycle + 1 == WARM_UP => before = Some(held(&mut machine)?),
            None => {}
        }
        let seconds = start.elapsed().as_secs();
        println!(
            "cycle {cycle}, after {seconds} s: {:?}",
            held(&mut machine)?
        );
    }
    machine.finish()?;
    Ok(())
}
