//! The device server that waits for a device: what it is before and after it has one, and that nothing depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::eventually;
use harness::host_device::{HostDevice, NVME};
use harness::proc_files::{self, is_vfio, mappings, open_files, status_of_threads};
use harness::programs;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{MANAGED, Machine, NO_RESET, PLUG, PORT, add_nvme, group_is_free};

/// For a process that was killed to be gone.
const GONE: Duration = Duration::from_secs(20);
/// What one may take beside what it shares, in KiB.
const SPARE_PSS_KIB: u64 = 3072;
/// The standard streams, the ready pipe, its orders, signals.
const SPARE_FILES: usize = 6;

fn machine_with_a_slot(options: &[&str]) -> Result<Machine> {
    HostDevice::at(NVME).give_to_vfio()?;
    let policy = format!("allow-host={NVME}");
    let slot = ["-device", PORT, "-device-policy", &policy];
    Machine::start(&[&slot, options].concat())
}

fn kill(pid: u32) -> Result<()> {
    let number = Pid::from_raw(i32::try_from(pid)?).context("a pid is not zero")?;
    kill_process(number, Signal::KILL)?;
    is_gone(pid)
}

fn is_gone(pid: u32) -> Result<()> {
    eventually("the end of the server that waited", GONE, || {
        let running = proc_files::running(programs::DEVICE_SERVER).ok()?;
        (!running.contains(&pid)).then_some(())
    })
}

/// Plugs the NVMe, which the guest reads; gives the pid of its server.
fn plug(machine: &mut Machine) -> Result<u32> {
    machine.succeed(&add_nvme("disk", ""))?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    machine.guest("wait_for /dev/nvme0n1; block 5 >/dev/null")?;
    let servers = machine.vm.device_server_pids()?;
    ensure!(servers.len() == 1, "one server for one device: {servers:?}");
    Ok(servers[0])
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_waited_serves_the_device_and_the_next_one_waits() -> Result<()> {
    let mut machine = machine_with_a_slot(&["-log-level", "debug"])?;
    for _ in 0..2 {
        let waited = machine.vm.spare_pid()?;
        let server = plug(&mut machine)?;
        ensure!(server == waited, "{server} serves, and {waited} waited");
        // The VM may have no other device, so no server waits beside it.
        machine.unplug("disk")?;
        group_is_free()?;
        let next = machine.vm.spare_pid()?;
        ensure!(next != waited, "it has ended");
        let all = machine.vm.all_pids()?;
        ensure!(
            all.len() == 3,
            "supervisor, VMM and one that waits: {all:?}"
        );
    }
    let log = machine.vm.log();
    ensure!(!log.contains("was not made ahead"), "{log}");
    machine.finish()?;
    Ok(())
}

/// Only then is a client served before its device is open; and its log says so.
const THROUGH_ITS_GROUP: [&str; 4] = ["-iommu-backend", "type1", "-log-level", "info"];

/// Whether the device that was plugged last had guest RAM before it was open.
fn had_memory_early(machine: &Machine) -> Result<bool> {
    let log = machine.vm.log();
    let line = log.lines().rfind(|line| line.contains("dma-map"));
    let line = line.with_context(|| log.clone())?;
    let early = line.contains("early=true");
    ensure!(early || line.contains("early=false"), "{line}");
    Ok(early)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn client_of_a_server_that_waited_has_its_memory_before_the_device_is_open() -> Result<()> {
    let mut machine = machine_with_a_slot(&THROUGH_ITS_GROUP)?;
    // A guest's memory that is not there yet is not taken for a device that may not open.
    for was_there in [false, true] {
        let waited = machine.vm.spare_pid()?;
        ensure!(plug(&mut machine)? == waited, "it was taken");
        ensure!(had_memory_early(&machine)? == was_there);
        machine.unplug("disk")?;
    }
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_whose_dma_is_on_is_open_before_its_client_has_memory() -> Result<()> {
    let mut machine = machine_with_a_slot(&THROUGH_ITS_GROUP)?;
    machine.vm.spare_pid()?;
    plug(&mut machine)?;
    machine.unplug("disk")?;
    let waited = machine.vm.spare_pid()?;
    HostDevice::at(NVME).become_bus_master()?;
    ensure!(plug(&mut machine)? == waited, "it was taken");
    ensure!(!had_memory_early(&machine)?);
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_waits_has_no_device_and_no_power() -> Result<()> {
    let machine = machine_with_a_slot(&[])?;
    let pid = machine.vm.spare_pid()?;
    let files = open_files(pid)?;
    ensure!(!files.iter().any(|file| is_vfio(file)), "{files:#?}");
    let known = ["/dev/null", "pipe:", "socket:", "anon_inode:[signalfd]"];
    let is_known = |file: &String| known.iter().any(|known| file.starts_with(known));
    ensure!(files.iter().all(is_known), "{files:#?}");
    ensure!(files.len() == SPARE_FILES, "{files:#?}");
    for (row, expected) in [
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Groups", ""),
    ] {
        ensure!(status_of_threads(pid, row)? == [expected], "{row}");
    }
    let user = status_of_threads(pid, "Uid")?.concat();
    ensure!(!user.split_whitespace().any(|uid| uid == "0"), "{user}");
    for kind in ["mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}"));
        ensure!(namespace(&pid.to_string())? != namespace("self")?, "{kind}");
    }
    ensure!(fs::read_dir(format!("/proc/{pid}/root/"))?.count() == 0);
    let pss: u64 = mappings(pid)?.iter().map(|mapping| mapping.pss_kib).sum();
    println!("a server that waits: {pss} KiB");
    ensure!(pss < SPARE_PSS_KIB, "{pss} KiB");
    machine.finish()?;
    Ok(())
}

/// What a server is held to, and what it holds.
fn sandbox_of(pid: u32) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let rows = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Groups",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Umask",
    ];
    let mut found = BTreeMap::new();
    for row in rows {
        found.insert(row, status_of_threads(pid, row)?);
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    found.insert("limits", limits.lines().map(str::to_owned).collect());
    let root = fs::read_dir(format!("/proc/{pid}/root/"))?.count();
    found.insert("root", vec![root.to_string()]);
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    found.insert("cgroup", vec![cgroup]);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    found.insert("mounts", mounts.lines().map(str::to_owned).collect());
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
    found.insert("threads", vec![threads.to_string()]);
    // Sockets and pipes have numbers of their own.
    let kind = |file: String| file.split('[').next().unwrap_or_default().to_owned();
    found.insert("files", open_files(pid)?.into_iter().map(kind).collect());
    Ok(found)
}

/// Their filters are compared with the role's table in tests/passthrough/tables.rs.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn sandbox_of_a_server_that_waited_is_that_of_one_that_did_not() -> Result<()> {
    let mut machine = machine_with_a_slot(&["-log-level", "info"])?;
    kill(machine.vm.spare_pid()?)?;
    let cold = plug(&mut machine)?;
    let sandbox_of_cold = sandbox_of(cold)?;
    let told = told(&machine)?;
    machine.unplug("disk")?;
    let waited = machine.vm.spare_pid()?;
    ensure!(plug(&mut machine)? == waited, "it was taken");
    assert_eq!(sandbox_of(waited)?, sandbox_of_cold);
    let told_now = self::told(&machine)?;
    assert_eq!(told_now, told);
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}

/// What the last server said of its sandbox, without the number of its user.
fn told(machine: &Machine) -> Result<String> {
    let log = machine.vm.log();
    let line = log
        .lines()
        .rfind(|line| line.contains("device_server::run") && line.contains("Sandbox "));
    let (_, enforced) = line
        .and_then(|line| line.split_once("enforced="))
        .context(log.clone())?;
    let words = enforced
        .split([' ', ';', ','])
        .filter(|word| word.parse::<u64>().is_err());
    Ok(words.collect::<Vec<_>>().join(" "))
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_waited_is_taken_without_a_sandbox_too() -> Result<()> {
    for mode in ["off", "best-effort"] {
        let mut machine = machine_with_a_slot(&["-sandbox", mode])?;
        let waited = machine.vm.spare_pid()?;
        ensure!(plug(&mut machine)? == waited, "{mode}: it was taken");
        machine.unplug("disk")?;
        machine.finish()?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_added_without_the_server_that_waited_when_that_was_killed() -> Result<()> {
    let mut machine = machine_with_a_slot(&[])?;
    let waited = machine.vm.spare_pid()?;
    kill(waited)?;
    let server = plug(&mut machine)?;
    ensure!(server != waited, "it was killed");
    machine.unplug("disk")?;
    let next = machine.vm.spare_pid()?;
    ensure!(next != waited && next != server, "another waits");
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_added_by_the_new_program_when_that_was_replaced() -> Result<()> {
    let mut machine = machine_with_a_slot(&[])?;
    let waited = machine.vm.spare_pid()?;
    // As a package's upgrade does.
    let program = programs::find(programs::DEVICE_SERVER)?;
    let new = program.with_extension("new");
    fs::copy(&program, &new)?;
    fs::rename(&new, &program)?;
    let server = plug(&mut machine)?;
    ensure!(server != waited, "it runs the old program");
    is_gone(waited)?;
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_is_in_use_is_refused_as_ever_and_the_server_still_waits() -> Result<()> {
    let mut machine = machine_with_a_slot(&[])?;
    let waited = machine.vm.spare_pid()?;
    let group = format!("/dev/vfio/{}", HostDevice::at(NVME).group()?);
    let held = fs::File::options().read(true).write(true).open(&group)?;
    let (class, text) = machine.qmp.refused(&add_nvme("disk", ""))?;
    ensure!(class == "GenericError", "{class}: {text}");
    ensure!(
        text.contains("open in another process") || text.contains("is served already"),
        "{text}"
    );
    drop(held);
    ensure!(
        plug(&mut machine)? == waited,
        "it was not taken for the device in use"
    );
    machine.unplug("disk")?;
    group_is_free()?;
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_cannot_be_reset_is_refused_with_its_cause_and_the_server_that_had_its_order_is_gone()
-> Result<()> {
    let device = HostDevice::at(NO_RESET);
    let before = device.driver();
    let policy = format!("allow-host={NO_RESET},managed=on");
    let mut machine = Machine::start(&["-device", PORT, "-device-policy", &policy])?;
    let waited = machine.vm.spare_pid()?;
    let add = add_nvme("disk", MANAGED).replace(NVME, NO_RESET);
    let (class, text) = machine.qmp.refused(&add)?;
    ensure!(class == "GenericError", "{class}: {text}");
    ensure!(text.contains("allow-no-reset=on"), "{text}");
    is_gone(waited)?;
    ensure!(device.driver() == before, "{:?}", device.driver());
    let next = machine.vm.spare_pid()?;
    ensure!(next != waited, "another waits");
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_that_does_not_open_is_refused_with_its_cause_and_leaves_nothing() -> Result<()> {
    HostDevice::at(NO_RESET).give_to_vfio()?;
    let policy = format!("allow-host={NO_RESET}");
    let slot = ["-device", PORT, "-device-policy", &policy];
    let mut machine = Machine::start(&[&slot, &THROUGH_ITS_GROUP[..]].concat())?;
    let waited = machine.vm.spare_pid()?;
    let add = add_nvme("disk", "").replace(NVME, NO_RESET);
    let (class, text) = machine.qmp.refused(&add)?;
    ensure!(class == "GenericError", "{class}: {text}");
    ensure!(text.contains("allow-no-reset=on"), "{text}");
    is_gone(waited)?;
    let group = format!("/dev/vfio/{}", HostDevice::at(NO_RESET).group()?);
    fs::File::options().read(true).write(true).open(group)?;
    let next = machine.vm.spare_pid()?;
    ensure!(next != waited, "another waits");
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_supervisor_takes_the_server_that_waits_along() -> Result<()> {
    let mut machine = machine_with_a_slot(&[])?;
    let waited = machine.vm.spare_pid()?;
    machine.vm.process().signal(Signal::KILL)?;
    is_gone(waited)
}
