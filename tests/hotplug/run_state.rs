//! Stop, go on, reset, power off and quit, and the event that each is told by.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::guest::Guest;
use harness::qmp::Qmp;
use serde_json::json;

use crate::machine::{Machine, PORT, TWO_CPUS};

const TOLD: Duration = Duration::from_secs(20);

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn stopped_machine_stands_still_and_goes_on() -> Result<()> {
    let mut machine =
        Machine::start(&[&TWO_CPUS, &["-device", PORT, "-name", "vm1"][..]].concat())?;
    let mut second = Qmp::connect(&machine.socket)?;
    machine.qmp.succeed(r#"{"execute":"stop"}"#)?;
    machine.event("STOP", TOLD)?;
    second.wait_for_event("STOP", TOLD)?;
    let status = second.succeed(r#"{"execute":"query-status"}"#)?;
    ensure!(
        status == json!({"running": false, "status": "paused"}),
        "{status}"
    );
    machine.tell("echo went on")?;
    let console = machine.vm.console();
    machine.qmp.listen(Duration::from_secs(2))?;
    ensure!(machine.vm.console() == console, "the guest stands still");
    second.succeed(r#"{"execute":"cont"}"#)?;
    machine.event("RESUME", TOLD)?;
    ensure!(machine.done()? == "0");
    let cpus = second.succeed(r#"{"execute":"query-cpus-fast"}"#)?;
    let tid = cpus[1]["thread-id"].to_string();
    let name = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", machine.vm.vmm_pid()?))?;
    ensure!(name.trim() == "vcpu1", "{name}");
    let pci = second.succeed(r#"{"execute":"query-pci"}"#)?;
    ensure!(pci[0]["devices"][1]["qdev_id"] == "pcie.1", "{pci}");
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn quit_answers_first_and_tells_the_end() -> Result<()> {
    let mut machine = Machine::boot(&["-device", PORT])?;
    machine.qmp.succeed(r#"{"execute":"quit"}"#)?;
    let end = machine.event("SHUTDOWN", TOLD)?;
    ensure!(
        end == json!({"guest": false, "reason": "host-qmp-quit"}),
        "{end}"
    );
    let order = machine.qmp.order();
    ensure!(order.ends_with(&["return", "SHUTDOWN"]), "{order:?}");
    let status = machine.vm.process().wait(TOLD)?;
    ensure!(status.success(), "{status}");
    ensure!(
        !std::path::Path::new(&machine.socket).exists(),
        "its socket is gone"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn power_button_reaches_a_guest_that_listens() -> Result<()> {
    const PRESSED_ONCE: &str = r#"
        tries=0
        until grep -q '^ *1 ' /sys/firmware/acpi/interrupts/ff_pwr_btn; do
            tries=$((tries + 1))
            [ $tries -lt 50 ] || { cat /sys/firmware/acpi/interrupts/ff_pwr_btn; exit 1; }
            sleep 0.1
        done
    "#;
    let script = format!("modprobe button; pause listening\n{PRESSED_ONCE}");
    let guest = Guest::running(&script).with_all_drivers();
    let mut machine = Machine::boot_guest(&[], &guest)?;
    machine.vm.wait_for_mark("listening")?;
    machine.qmp.succeed(r#"{"execute":"system_powerdown"}"#)?;
    machine.event("POWERDOWN", TOLD)?;
    machine.vm.resume()?;
    machine.end()?;
    Ok(())
}
