//! Servers and VMs are started, stopped, killed and started again, each before and after the other.

use anyhow::{Result, ensure};
use harness::deadline::eventually;
use harness::host_device::HostDevice;
use harness::pattern::record_in_hex;

use crate::installed::{BLUE, CHANGE, GREEN, Host, Tenant};

fn reads_its_disk(tenant: Tenant) -> Result<()> {
    tenant.wait_for_guest(&format!("BLOCK {}", record_in_hex(99)))
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn first_vm_starts_the_server_and_the_next_one_finds_it() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket(), &GREEN.socket()])?;
    host.is(&BLUE.server(), "inactive")?;
    // Before a VM waits for it.
    ensure!(
        HostDevice::at(BLUE.device).driver().as_deref() == Some("vfio-pci"),
        "bound"
    );
    for _ in ["first", "second"] {
        host.systemctl(&["start", &BLUE.vm()])?;
        reads_its_disk(BLUE)?;
        host.is(&BLUE.server(), "active")?;
        host.is(&GREEN.server(), "inactive")?;
        host.systemctl(&["stop", &BLUE.vm()])?;
        let result = host.property(&BLUE.vm(), "Result")?;
        ensure!(
            result == "success",
            "{result}: {}",
            host.journal(&BLUE.vm())
        );
    }
    // The server's user had the node, and only while it ran.
    ensure!(BLUE.node_owner()? != 0, "lent");
    host.systemctl(&["stop", &BLUE.socket(), &BLUE.server()])?;
    ensure!(BLUE.node_owner()? == 0, "given back");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_server_costs_its_vm_the_device_and_the_next_start_has_it_again() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket()])?;
    host.systemctl(&["start", &BLUE.vm()])?;
    reads_its_disk(BLUE)?;
    let lost = host.records("BULKHEAD_EVENT=device-lost")?;
    host.systemctl(&["kill", "--signal", "KILL", &BLUE.server()])?;
    host.becomes(&BLUE.server(), "failed")?;
    let told = || (host.records("BULKHEAD_EVENT=device-lost").ok()? > lost).then_some(());
    eventually("the loss in the journal", CHANGE, told)?;
    host.is(&BLUE.vm(), "active")?;
    ensure!(BLUE.node_owner()? == 0, "given back");
    host.systemctl(&["restart", &BLUE.vm()])?;
    reads_its_disk(BLUE)?;
    host.is(&BLUE.server(), "active")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_vm_starts_again_and_has_its_device() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket()])?;
    host.systemctl(&["start", &BLUE.vm()])?;
    reads_its_disk(BLUE)?;
    host.systemctl(&[
        "kill",
        "--kill-whom",
        "main",
        "--signal",
        "KILL",
        &BLUE.vm(),
    ])?;
    let again = || (host.property(&BLUE.vm(), "NRestarts").ok()? == "1").then_some(());
    eventually("a start after the kill", CHANGE, again)?;
    host.becomes(&BLUE.vm(), "active")?;
    reads_its_disk(BLUE)?;
    host.is(&BLUE.server(), "active")
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_is_stopped_under_its_vm_leaves_it_running_and_the_target_stops_all() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", "bulkhead.target", &GREEN.socket()])?;
    host.systemctl(&["start", &GREEN.vm()])?;
    GREEN.wait_for_guest("VENDOR 0x8086")?;
    host.systemctl(&["stop", &GREEN.server()])?;
    host.is(&GREEN.vm(), "active")?;
    host.systemctl(&["restart", &GREEN.vm()])?;
    GREEN.wait_for_guest("VENDOR 0x8086")?;
    host.systemctl(&["stop", "bulkhead.target"])?;
    for unit in [GREEN.vm(), GREEN.server(), GREEN.socket()] {
        host.becomes(&unit, "inactive")?;
    }
    ensure!(GREEN.node_owner()? == 0, "given back");
    Ok(())
}
