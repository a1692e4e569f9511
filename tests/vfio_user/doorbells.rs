//! Writes that KVM turns into the signal of the server's eventfd.

use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use harness::bending_relay::{Bend, Step};
use harness::raw_message::RawMessage;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::machine::{Machine, Setup};
use crate::refused::refuse_all;

const VERSION: u16 = 1;
const IO_FDS: u16 = 6;

// Registers of the test device, docs/test-device.md.
const DOORBELL: u32 = 0x44;
const MATCHED_DOORBELL: u32 = 0x48;
const RINGS: u32 = 0x4c;
const RINGS_BY_MESSAGE: u32 = 0x50;
const MATCH: u32 = 7;

fn plain(_: &RawMessage, reply: RawMessage) -> Result<Vec<Step>> {
    Ok(vec![Step::Send(reply)])
}

/// Rings four times; gives how often the device heard it, and how often by message.
fn ring(machine: &mut Machine) -> Result<(u32, u32)> {
    for value in [0, MATCH] {
        machine.set_register(DOORBELL, value)?;
        machine.set_register(MATCHED_DOORBELL, value)?;
    }
    Ok((
        machine.register(RINGS)?,
        machine.register(RINGS_BY_MESSAGE)?,
    ))
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn i22_i23_doorbell_rings_without_a_message_wherever_the_bar_is() -> Result<()> {
    let mut machine = Setup::new(&[])?.attached(plain)?;
    // Only the value that does not match takes a message.
    assert_eq!(ring(&mut machine)?, (4, 1));
    // The eventfd goes where the BAR goes.
    machine.config_write(0x18, 0xd300_0000)?;
    let (rings, messages) = (0xd300_0000 + RINGS, 0xd300_0000 + RINGS_BY_MESSAGE);
    machine.write(0xd300_0000 + DOORBELL, 0)?;
    assert_eq!((machine.read(rings)?, machine.read(messages)?), (5, 1));
    // Nobody is behind the old place.
    machine.set_register(DOORBELL, 0)?;
    assert_eq!((machine.read(rings)?, machine.read(messages)?), (5, 1));
    machine.place()?;
    assert_eq!(ring(&mut machine)?, (9, 2));
    machine.is_in_step()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d25_doorbell_that_kvm_does_not_take_stays_trapped() -> Result<()> {
    let file: OwnedFd = memfd_create("no-eventfd", MemfdFlags::CLOEXEC)?;
    let no_eventfd = move |_: &RawMessage, mut reply: RawMessage| {
        if reply.command() == IO_FDS && !reply.fds.is_empty() {
            reply.fds = vec![file.try_clone()?];
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(no_eventfd)?;
    assert_eq!(ring(&mut machine)?, (4, 4));
    let lines = machine.logged("a doorbell stays trapped");
    ensure!(lines == 1, "{lines} lines:\n{}", machine.log());
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d25_doorbells_that_make_no_sense_are_refused() -> Result<()> {
    fn whole(reply: &mut RawMessage, bend: fn(&mut RawMessage)) {
        if reply.bytes.len() >= 112 {
            bend(reply);
        }
    }
    refuse_all(&[
        ("count", IO_FDS, |it| it.put_u32(28, u32::MAX), "count"),
        ("argsz", IO_FDS, |it| it.put_u32(16, 17), "argsz"),
        (
            "size",
            IO_FDS,
            |it| whole(it, |it| it.put_u32(40, 7)),
            "size of an entry",
        ),
        (
            "offset",
            IO_FDS,
            |it| whole(it, |it| it.put_u32(32, 4096)),
            "offset of an entry",
        ),
        (
            "fd_index",
            IO_FDS,
            |it| whole(it, |it| it.put_u32(48, 1)),
            "fd_index",
        ),
        (
            "type",
            IO_FDS,
            |it| whole(it, |it| it.put_u32(52, 9)),
            "type of an entry",
        ),
    ])
}

/// A server that says nothing of newer capabilities, and ends at the question.
struct Old;

impl Bend for Old {
    fn request(&mut self, request: &mut RawMessage) -> Result<()> {
        ensure!(request.command() != IO_FDS, "asked all the same");
        Ok(())
    }

    fn reply(&mut self, _: &RawMessage, mut reply: RawMessage) -> Result<Vec<Step>> {
        if reply.command() == VERSION {
            reply.set_body(b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":16}}\0");
        }
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d25_server_without_newer_capabilities_is_not_asked() -> Result<()> {
    let mut machine = Setup::new(&[])?.attached(Old)?;
    assert_eq!(ring(&mut machine)?, (4, 4));
    machine.is_in_step()
}
