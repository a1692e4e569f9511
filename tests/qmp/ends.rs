//! RESET, SHUTDOWN and POWERDOWN with each reason, from guests of a few instructions.

use anyhow::{Result, ensure};
use harness::bare_guest::{self, after_a_byte};
use harness::deadline::PROCESS;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::machine::Machine;

/// Starts a machine, has a client there, does what ends it; gives the data of SHUTDOWN and whether the VMM ended well.
fn ended_by(
    program: &[u8],
    arguments: &[&str],
    end: impl FnOnce(&mut Machine) -> Result<()>,
) -> Result<(Value, bool)> {
    let mut machine = Machine::start(program, arguments)?;
    let mut qmp = machine.client()?;
    end(&mut machine)?;
    let data = qmp.wait_for_event("SHUTDOWN", PROCESS)?;
    Ok((data, machine.process.wait(PROCESS)?.success()))
}

fn type_a_byte(machine: &mut Machine) -> Result<()> {
    machine.process.write_line("")
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_powers_off_is_a_guest_shutdown() -> Result<()> {
    let (data, well) = ended_by(&after_a_byte(bare_guest::POWER_OFF), &[], type_a_byte)?;
    ensure!(
        data == json!({"guest": true, "reason": "guest-shutdown"}),
        "{data}"
    );
    ensure!(well, "the VMM ends well");
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_resets_under_no_reboot_is_a_guest_reset() -> Result<()> {
    let program = after_a_byte(bare_guest::RESET);
    let (data, well) = ended_by(&program, &["-no-reboot"], type_a_byte)?;
    ensure!(
        data == json!({"guest": true, "reason": "guest-reset"}),
        "{data}"
    );
    ensure!(well, "the VMM ends well");
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn processor_that_cannot_go_on_is_a_guest_panic() -> Result<()> {
    let program = after_a_byte(bare_guest::TRIPLE_FAULT);
    let (data, well) = ended_by(&program, &[], type_a_byte)?;
    ensure!(
        data == json!({"guest": true, "reason": "guest-panic"}),
        "{data}"
    );
    ensure!(!well, "the VMM ends with an error");
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn signal_is_a_host_signal() -> Result<()> {
    let terminate = |machine: &mut Machine| machine.process.signal(Signal::TERM);
    let (data, _) = ended_by(bare_guest::HALT, &[], terminate)?;
    ensure!(
        data == json!({"guest": false, "reason": "host-signal"}),
        "{data}"
    );
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn resets_tell_who_asked_for_them_and_the_machine_goes_on() -> Result<()> {
    let mut machine = Machine::start(&after_a_byte(bare_guest::RESET), &[])?;
    let mut qmp = machine.client()?;
    for _ in 0..3 {
        type_a_byte(&mut machine)?;
        let data = qmp.wait_for_event("RESET", PROCESS)?;
        let expected = json!({"guest": true, "reason": "guest-reset"});
        ensure!(data == expected, "{data}");
        qmp.succeed(r#"{"execute":"system_reset"}"#)?;
        let data = qmp.wait_for_event("RESET", PROCESS)?;
        let expected = json!({"guest": false, "reason": "host-qmp-system-reset"});
        ensure!(data == expected, "{data}");
    }
    ensure!(
        qmp.order().ends_with(&["RESET", "return", "RESET"]),
        "{:?}",
        qmp.order()
    );
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn reset_of_a_stopped_machine_leaves_it_stopped() -> Result<()> {
    let machine = Machine::start(bare_guest::TICK, &[])?;
    let mut qmp = machine.client()?;
    qmp.succeed(r#"{"execute":"stop"}"#)?;
    qmp.succeed(r#"{"execute":"system_reset"}"#)?;
    qmp.wait_for_event("RESET", PROCESS)?;
    let status = qmp.succeed(r#"{"execute":"query-status"}"#)?;
    ensure!(
        status == json!({"running": false, "status": "paused"}),
        "{status}"
    );
    let ticks = machine.process.stdout().text().len();
    qmp.succeed(r#"{"execute":"cont"}"#)?;
    harness::deadline::eventually("the guest goes on", PROCESS, || {
        (machine.process.stdout().text().len() > ticks).then_some(())
    })?;
    machine.quit()
}
