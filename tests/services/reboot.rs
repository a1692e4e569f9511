//! The host is rebooted under two tenants' VMs: systemd ends them in order and in time, and starts all again by itself.
//!
//! Runs twice in a lab machine that may be rebooted (`scripts/lab --reboots 1`): the second boot finds what the first one wrote.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::packaged::UNITS;
use harness::pattern::record_in_hex;

use crate::installed::{BLUE, GREEN, Host, run};

/// For the shutdown of the host, by far: no unit may come near its TimeoutStopSec=.
const SHUTDOWN: f64 = 60.0;
/// After this the host has not been rebooted at all.
const REBOOT: Duration = Duration::from_secs(300);
/// Stops after the device servers, and writes down whose VFIO's nodes are then.
const WITNESS: &str = "witness.service";
const NODES: &str = "/var/lib/nodes-at-the-end";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn rebooted_host_ends_all_units_in_order_and_brings_them_up_again() -> Result<()> {
    match std::env::var("LAB_BOOT")?.as_str() {
        "1" => reboot_under_the_vms(),
        "2" => {
            let host = Host;
            let shutdown = shutdown_records()?;
            println!("{}", shutdown.join("\n"));
            shutdown_was_orderly(&shutdown)?;
            all_runs_again(&host)
        }
        other => bail!("boot {other}: this test reboots the machine once"),
    }
}

fn reboot_under_the_vms() -> Result<()> {
    let host = Host::install()?;
    fs::create_dir_all("/var/log/journal")?;
    run("journalctl", &["--flush"])?;
    let servers = format!("{} {}", BLUE.server(), GREEN.server());
    let witness = format!(
        "[Unit]\nBefore={servers}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n\
         ExecStop=sh -c 'stat -c \"%%u %%n\" /dev/vfio/[0-9]* >{NODES}'\n"
    );
    fs::write(format!("{UNITS}/{WITNESS}"), witness)?;
    host.systemctl(&["daemon-reload"])?;
    host.systemctl(&["start", WITNESS])?;
    for unit in [BLUE.socket(), GREEN.socket(), BLUE.vm(), GREEN.vm()] {
        host.systemctl(&["enable", "--now", &unit])?;
    }
    guests_have_their_devices()?;
    for tenant in [BLUE, GREEN] {
        ensure!(tenant.node_owner()? != 0, "{tenant:?}: lent");
    }
    host.systemctl(&["reboot"])?;
    // This process is ended by the reboot. It must not end before, nor drop the host, which would stop the units.
    std::thread::sleep(REBOOT);
    bail!("the host was not rebooted in {REBOOT:?}")
}

fn guests_have_their_devices() -> Result<()> {
    BLUE.wait_for_guest(&format!("BLOCK {}", record_in_hex(99)))?;
    GREEN.wait_for_guest("VENDOR 0x8086")
}

/// What the journal has of the first boot, from the reboot's beginning on.
fn shutdown_records() -> Result<Vec<String>> {
    let words = ["--no-pager", "--boot", "-1", "--output", "short-monotonic"];
    let all = run("journalctl", &words)?;
    let mut lines = all.lines().map(str::to_owned);
    // The session is what stops first of all.
    let first = lines.find(|line| line.contains("Stopping lab.service"));
    let first = first.with_context(|| format!("no reboot in {all}"))?;
    Ok([first].into_iter().chain(lines).collect())
}

fn shutdown_was_orderly(records: &[String]) -> Result<()> {
    let at = |what: &str| -> Result<usize> {
        let found = records.iter().position(|line| line.contains(what));
        found.with_context(|| format!("{what:?} is not in the journal"))
    };
    for tenant in [BLUE, GREEN] {
        let vm = at(&format!("Stopped {}", tenant.vm()))?;
        let server = at(&format!("Stopping {}", tenant.server()))?;
        let socket = at(&format!("Closed {}", tenant.socket()))?;
        ensure!(vm < server, "{}: before its device's server", tenant.vm());
        at(&format!("Stopped {}", tenant.server()))?;
        ensure!(server < socket, "{}: before its socket", tenant.server());
    }
    for bad in [
        "device-lost",
        "is lost",
        "timed out",
        "Killing process",
        "Failed with result",
    ] {
        let found = records.iter().find(|line| line.contains(bad));
        ensure!(found.is_none(), "{found:?}");
    }
    let seconds = seconds(records.last())? - seconds(records.first())?;
    println!("the shutdown took {seconds:.1} s");
    ensure!(seconds < SHUTDOWN, "{seconds} s");
    let nodes = fs::read_to_string(NODES)?;
    let given_back = nodes.lines().all(|line| line.starts_with("0 "));
    ensure!(nodes.lines().count() == 2 && given_back, "root's: {nodes}");
    Ok(())
}

/// When a record was written, on the clock of its boot: "[   12.345678] lab systemd[1]: ...".
fn seconds(record: Option<&String>) -> Result<f64> {
    let record = record.context("a record")?;
    let time = record.trim_start_matches('[').split(']').next();
    Ok(time.context("a time")?.trim().parse()?)
}

fn all_runs_again(host: &Host) -> Result<()> {
    // Where the order is a circle systemd leaves out one unit of it, any.
    let boot = run("journalctl", &["--no-pager", "--boot", "--output", "cat"])?;
    let circle = boot.lines().find(|line| line.contains("ordering cycle"));
    ensure!(circle.is_none(), "{circle:?}");
    guests_have_their_devices()?;
    for tenant in [BLUE, GREEN] {
        for unit in [tenant.socket(), tenant.server(), tenant.vm()] {
            host.is(&unit, "active")?;
        }
        // Where the server takes more than 5 s to start, as it may at the boot of an emulated host, its VM gives up and is started again.
        let restarts = host.property(&tenant.vm(), "NRestarts")?;
        println!("{}: {restarts} restarts", tenant.vm());
        ensure!(tenant.node_owner()? != 0, "{tenant:?}: lent again");
    }
    ensure!(
        host.records("BULKHEAD_EVENT=device-lost")? == 0,
        "nothing was lost"
    );
    Ok(())
}
