//! Descriptions that make no sense: regions, interrupts, configuration space, files.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use harness::bending_relay::Step;
use harness::raw_message::RawMessage;
use harness::raw_peer::descriptors;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::machine::Setup;
use crate::refused::refuse_all;

const INFO: u16 = 4;
const REGION_INFO: u16 = 5;
const IRQ_INFO: u16 = 7;
const READ: u16 = 9;

/// Bends what is said of one region, or of one kind of interrupts.
fn of(index: u32, reply: &mut RawMessage, bend: fn(&mut RawMessage)) {
    if reply.u32_at(24) == index {
        bend(reply);
    }
}

/// Bends the list of areas of BAR0: an answer of 80 bytes.
fn areas(reply: &mut RawMessage, bend: fn(&mut RawMessage)) {
    if reply.u32_at(24) == 0 && reply.bytes.len() >= 80 {
        bend(reply);
    }
}

/// `i64::MAX`, less a page.
const NEAR_THE_END: [u8; 8] = [0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d01_to_d05_device_that_makes_no_sense_is_refused() -> Result<()> {
    refuse_all(&[
        ("D01", INFO, |it| it.put_u32(24, u32::MAX), "num_regions"),
        ("D02", INFO, |it| it.put_u32(24, 7), "num_regions"),
        ("D03", INFO, |it| it.put_u32(28, u32::MAX), "num_irqs"),
        ("D04", INFO, |it| it.put_u32(20, 1), "no PCI device"),
        ("D05", INFO, |it| it.put_u32(20, 2), "cannot be reset"),
    ])
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d06_to_d22_region_that_makes_no_sense_is_refused() -> Result<()> {
    refuse_all(&[
        (
            "D06",
            REGION_INFO,
            |it| of(0, it, |it| it.put_u32(24, 1)),
            "index",
        ),
        (
            "D07",
            REGION_INFO,
            |it| of(0, it, |it| it.put_u32(16, u32::MAX)),
            "argsz",
        ),
        (
            "D08",
            REGION_INFO,
            |it| of(0, it, |it| it.put_u32(16, 31)),
            "argsz",
        ),
        (
            "D10 huge",
            REGION_INFO,
            |it| of(0, it, |it| it.put(32, &[0xff; 8])),
            "size",
        ),
        (
            "D10 odd",
            REGION_INFO,
            |it| of(0, it, |it| it.put_u32(32, 0x20_0001)),
            "size",
        ),
        (
            "D11",
            REGION_INFO,
            |it| of(7, it, |it| it.put_u32(32, 16)),
            "configuration space",
        ),
        (
            "D12",
            REGION_INFO,
            |it| of(0, it, |it| it.put_u32(28, 31)),
            "cap_offset",
        ),
        (
            "D13",
            REGION_INFO,
            |it| areas(it, |it| it.put_u32(52, 32)),
            "cap_offset",
        ),
        (
            "D14",
            REGION_INFO,
            |it| areas(it, |it| it.put_u32(56, u32::MAX)),
            "nr_areas",
        ),
        (
            "D15",
            REGION_INFO,
            |it| areas(it, |it| it.put_u32(64, 4096)),
            "sparse area",
        ),
        (
            "D22",
            REGION_INFO,
            |it| of(0, it, |it| it.put(40, &NEAR_THE_END)),
            "offset",
        ),
    ])
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d23_d24_interrupts_that_make_no_sense_are_refused() -> Result<()> {
    refuse_all(&[
        (
            "D23 INTx",
            IRQ_INFO,
            |it| of(0, it, |it| it.put_u32(28, 2)),
            "count",
        ),
        (
            "D23 MSI",
            IRQ_INFO,
            |it| of(1, it, |it| it.put_u32(28, 33)),
            "count",
        ),
        (
            "D23 MSI-X",
            IRQ_INFO,
            |it| of(2, it, |it| it.put_u32(28, 2049)),
            "count",
        ),
        (
            "D24",
            IRQ_INFO,
            |it| of(1, it, |it| it.put_u32(24, 2)),
            "index",
        ),
    ])
}

/// Changes a byte of the configuration space that the VMM copies.
fn config(reply: &mut RawMessage, at: u32, value: u8) {
    let (start, region, count) = (reply.u32_at(16), reply.u32_at(24), reply.u32_at(28));
    if region == 7 && (start..start + count).contains(&at) {
        let [place, ..] = (at - start).to_le_bytes();
        reply.put(32 + usize::from(place), &[value]);
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d26_configuration_space_that_makes_no_sense_is_refused() -> Result<()> {
    refuse_all(&[
        ("a bridge", READ, |it| config(it, 0x0e, 1), "header type"),
        (
            "a list that loops",
            READ,
            |it| config(it, 0x59, 0x40),
            "comes back",
        ),
        (
            "a list into the header",
            READ,
            |it| config(it, 0x34, 0x10),
            "where none can be",
        ),
        (
            "a table in BAR 7",
            READ,
            |it| config(it, 0x5c, 7),
            "MSI-X table",
        ),
        (
            "a table past its BAR",
            READ,
            |it| config(it, 0x5d, 0x10),
            "MSI-X table",
        ),
        (
            "a table of another size",
            READ,
            |it| config(it, 0x5a, 0x0e),
            "15 vectors",
        ),
        ("pin 5", READ, |it| config(it, 0x3d, 5), "interrupt pin"),
    ])
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn d17_d19_d20_file_that_cannot_be_a_bar_is_refused() -> Result<()> {
    let mut files: Vec<(Option<OwnedFd>, &str)> = vec![
        (None, "no file descriptor"),
        (
            Some(memfd_create("short", MemfdFlags::CLOEXEC)?),
            "ends before",
        ),
        (Some(eventfd(0, EventfdFlags::CLOEXEC)?), "map the area"),
        (Some(rustix::pipe::pipe()?.0), "no device"),
        // Of a kind that can be mapped, and whose end may be waited for.
        (Some(TcpListener::bind("127.0.0.1:0")?.into()), "no device"),
        (Some(File::open("/dev/null")?.into()), "map the area"),
        // A regular file that is no memory.
        (Some(File::open("/proc/version")?.into()), "no memory"),
    ];
    for (kind, file) in descriptors::of_fuse() {
        let is_asked = kind == descriptors::SILENT_FUSE;
        files.push((
            Some(file),
            if is_asked {
                "no memory"
            } else {
                "ask what it is"
            },
        ));
    }
    let mut setup = Setup::new(&[])?;
    for (file, word) in files {
        let other_file = move |_: &RawMessage, mut reply: RawMessage| {
            if reply.command() == REGION_INFO && !reply.fds.is_empty() {
                reply.fds.clear();
                if let Some(file) = &file {
                    reply.fds.push(file.try_clone()?);
                }
            }
            Ok(vec![Step::Send(reply)])
        };
        let refusal = setup.refused(other_file)?;
        refusal.names(&["net", word]).context(word)?;
    }
    Ok(())
}
