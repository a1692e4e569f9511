//! Requests other than accesses that fail or take long while the guest runs: interrupts and resets.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::bending_relay::Step;
use harness::deadline::eventually;
use harness::raw_message::RawMessage;

use crate::machine::{BLKT, ID, ONES, SCRATCH, Setup, TABLE};

const SET_IRQS: u16 = 8;
const WRITE: u16 = 10;
const CONFIG: u32 = 7;

/// The MSI-X capability of the test device; its control word is the upper half.
const MSIX: u32 = 0x58;
const MSIX_ENABLE: u32 = 0x8000_0000;
/// Device Control, with Initiate Function Level Reset in bit 15.
const DEVICE_CONTROL: u32 = 0x70;
const FLR: u32 = 1 << 15;

/// Longer than an access may take.
const SLOW: Duration = Duration::from_secs(7);

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn b11_interrupts_that_are_refused_are_said_once_and_the_device_works() -> Result<()> {
    let refuse = |_: &RawMessage, mut reply: RawMessage| {
        if reply.command() == SET_IRQS {
            reply.set_error(28);
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(refuse)?;
    machine.config_write(MSIX, MSIX_ENABLE)?;
    for round in 0..20 {
        machine.write(TABLE, 0xfee0_0000)?;
        machine.write(TABLE + 4, 0)?;
        machine.write(TABLE + 8, 0x40)?;
        // The guest masks and unmasks its first vector.
        machine.write(TABLE + 12, round & 1)?;
        if round == 0 {
            // From here on it has an eventfd.
            machine.note_what_is_held()?;
        }
    }
    machine.is_in_step()?;
    for kind in [
        "interrupt pin is not wired",
        "interrupt vector is not wired",
    ] {
        let lines = machine.logged(kind);
        ensure!(lines == 1, "{lines} lines of {kind}:\n{}", machine.log());
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn b12_slow_function_level_reset_holds_no_vcpu_and_ends_well() -> Result<()> {
    let slow = |request: &RawMessage, reply: RawMessage| {
        if starts_reset(request) {
            return Ok(vec![Step::Wait(SLOW), Step::Send(reply)]);
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(slow)?;
    machine.set_register(SCRATCH, 5)?;
    let began = Instant::now();
    machine.config_write(DEVICE_CONTROL, FLR)?;
    // The reset turned memory decoding off; the guest turns it on again as soon as that is heard.
    for _ in 0..5 {
        ensure!(
            machine.register(ID)? == ONES,
            "a device in reset reads ones"
        );
        ensure!(
            machine.config_read(0)? == ONES,
            "its configuration space, too"
        );
    }
    let took = began.elapsed();
    ensure!(
        took < Duration::from_secs(3),
        "the vCPU was held for {took:?}"
    );
    eventually("the end of the reset", Duration::from_secs(20), || {
        (machine.config_read(0).ok()? != ONES).then_some(())
    })?;
    ensure!(began.elapsed() >= SLOW, "it ended too early");
    machine.place()?;
    ensure!(machine.register(SCRATCH)? == 0, "the device was reset");
    ensure!(machine.register(ID)? == BLKT);
    ensure!(machine.logged("device lost") == 0, "{}", machine.log());
    machine.is_in_step()
}

/// A write of configuration space with the bit of the reset, wherever in the message it is.
fn starts_reset(request: &RawMessage) -> bool {
    if request.command() != WRITE || request.u32_at(24) != CONFIG {
        return false;
    }
    let high = (DEVICE_CONTROL + 1).checked_sub(request.u32_at(16));
    let byte = high.and_then(|at| request.bytes.get(32 + usize::try_from(at).ok()?));
    byte.is_some_and(|byte| byte & 0x80 != 0)
}
