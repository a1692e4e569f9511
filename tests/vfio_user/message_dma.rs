//! A device that reaches guest memory by DMA_READ and DMA_WRITE messages, on the twin socket and on the main one.

use anyhow::{Result, ensure};
use harness::bending_relay::{Bend, Step};
use harness::raw_message::RawMessage;

use crate::machine::{Machine, Setup};

const VERSION: u16 = 1;

// Registers of the test device, docs/test-device.md.
const FEATURES: u32 = 0x0c;
const SOURCE: u32 = 0x20;
const DESTINATION: u32 = 0x28;
const LENGTH: u32 = 0x30;
const COMMAND: u32 = 0x34;
const STATUS: u32 = 0x38;
const RESULT: u32 = 0x3c;
const COPY: u32 = 1;
const ADD_UP: u32 = 3;
const DONE: u32 = 1;
const EFAULT: u32 = 14;

/// Free memory of the guest, and an address where it has none.
const FROM: u32 = 0x20_0000;
const TO: u32 = 0x20_1000;
const NOWHERE: u32 = 0x8000_0000;

fn dma(machine: &mut Machine, from: u32, to: u32, command: u32) -> Result<u32> {
    machine.set_register(SOURCE, from)?;
    machine.set_register(DESTINATION, to)?;
    machine.set_register(LENGTH, 8)?;
    machine.set_register(COMMAND, command)?;
    machine.register(STATUS)
}

fn copies_memory(machine: &mut Machine) -> Result<()> {
    ensure!(machine.register(FEATURES)? == 1, "memory by messages only");
    machine.write(FROM, 0x0102_0304)?;
    machine.write(FROM + 4, 0x0506_0708)?;
    let status = dma(machine, FROM, TO, COPY)?;
    ensure!(status == DONE, "status {status:#x}: {}", machine.log());
    ensure!(machine.read(TO)? == 0x0102_0304);
    ensure!(machine.read(TO + 4)? == 0x0506_0708);
    ensure!(dma(machine, TO, 0, ADD_UP)? == DONE);
    ensure!(machine.register(RESULT)? == 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8);
    for (from, to) in [(NOWHERE, TO), (FROM, NOWHERE)] {
        let status = dma(machine, from, to, COPY)?;
        ensure!(
            status == EFAULT << 16 | 2,
            "status {status:#x} of {from:#x} to {to:#x}"
        );
    }
    machine.is_in_step()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn t01_t02_t03_device_reaches_guest_memory_by_messages_on_the_twin_socket() -> Result<()> {
    let plain = |_: &RawMessage, reply: RawMessage| Ok(vec![Step::Send(reply)]);
    copies_memory(&mut Setup::new(&["--message-dma"])?.attached(plain)?)
}

/// Takes the offer of a twin socket out of what the VMM proposes.
struct NoTwin;

impl Bend for NoTwin {
    fn request(&mut self, request: &mut RawMessage) -> Result<()> {
        if request.command() == VERSION {
            request.set_body(b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":16}}\0");
        }
        Ok(())
    }

    fn reply(&mut self, _: &RawMessage, reply: RawMessage) -> Result<Vec<Step>> {
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn t15_device_reaches_guest_memory_between_a_request_and_its_answer() -> Result<()> {
    copies_memory(&mut Setup::new(&["--message-dma"])?.attached(NoTwin)?)
}
