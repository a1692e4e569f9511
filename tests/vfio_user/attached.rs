//! Answers that are odd and do no harm: the device is attached and works.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use harness::bending_relay::{Bend, Step};
use harness::raw_message::RawMessage;
use rustix::event::{EventfdFlags, eventfd};

use crate::machine::{MEMORY, Setup};

const VERSION: u16 = 1;
const INFO: u16 = 4;
const REGION_INFO: u16 = 5;
const IRQ_INFO: u16 = 7;

fn works(bend: impl Bend) -> Result<()> {
    Setup::new(&[])?.attached(bend)?.is_in_step()
}

fn with_version(body: &'static [u8]) -> impl Bend {
    move |_: &RawMessage, mut reply: RawMessage| {
        if reply.command() == VERSION {
            reply.set_body(body);
        }
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn c03_c04_c07_c11_c15_version_that_says_little_or_too_much_is_taken() -> Result<()> {
    works(with_version(b"\0\0\x01\0"))?;
    works(with_version(b"\0\0\x01\0{}\0"))?;
    works(with_version(
        b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":1000000000,\"max_data_xfer_size\":1099511627776,\
          \"write_multiple\":true,\"migration\":{\"pgsize\":4096},\"twin_socket\":{\"supported\":false}}}\0",
    ))
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s21_answers_in_single_bytes_are_read() -> Result<()> {
    works(|_: &RawMessage, reply: RawMessage| {
        if reply.fds.is_empty() && reply.bytes.len() < 64 {
            return Ok(vec![Step::Trickle(reply.bytes, Duration::from_millis(1))]);
        }
        Ok(vec![Step::Send(reply)])
    })
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s22_d18_descriptors_that_nobody_asked_for_are_closed() -> Result<()> {
    let with_each = |_: &RawMessage, mut reply: RawMessage| {
        if ![VERSION, REGION_INFO].contains(&reply.command()) {
            reply.fds.push(eventfd(0, EventfdFlags::CLOEXEC)?);
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(with_each)?;
    machine.is_in_step()?;
    let before = machine.fds()?;
    for _ in 0..20 {
        machine.is_in_step()?;
    }
    assert_eq!(machine.fds()?, before);
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d19_file_that_shrinks_costs_the_guest_ones_and_not_the_vm() -> Result<()> {
    let file = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, 2 << 20)?;
    let ours = file.try_clone()?;
    let mut machine = Setup::new(&[])?.attached(replace_file(file))?;
    machine.write(MEMORY + 0x1000, 0x600d)?;
    assert_eq!(machine.read(MEMORY + 0x1000)?, 0x600d);
    let mut word = [0; 4];
    rustix::io::pread(&ours, &mut word, 0x1000)?;
    assert_eq!(
        u32::from_le_bytes(word),
        0x600d,
        "the guest reaches the file itself"
    );
    rustix::fs::ftruncate(&ours, 0)?;
    // Trapped from now on: the test device's own memory.
    assert_eq!(machine.read(MEMORY + 0x1000)?, 0);
    machine.is_in_step()
}

fn replace_file(file: OwnedFd) -> impl Bend {
    move |_: &RawMessage, mut reply: RawMessage| {
        if reply.command() == REGION_INFO && !reply.fds.is_empty() {
            reply.fds = vec![file.try_clone()?];
        }
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s06_surplus_behind_a_description_is_skipped() -> Result<()> {
    works(|_: &RawMessage, mut reply: RawMessage| {
        if [INFO, IRQ_INFO].contains(&reply.command()) {
            reply.append(&[0xff; 4096]);
        }
        Ok(vec![Step::Send(reply)])
    })
}
