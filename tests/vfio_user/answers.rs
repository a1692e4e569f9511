//! Answers to the accesses of a running guest that make no sense: the access fails, and the next one works.

use anyhow::{Context, Result, ensure};
use harness::bending_relay::Step;
use harness::raw_message::RawMessage;

use crate::machine::{ID, ONES, SCRATCH, Setup};

const READ: u16 = 9;
const WRITE: u16 = 10;
const REGISTER_BAR: u32 = 2;

/// A row, and what it makes of the reply to a read or a write of the register ID.
type Row = (&'static str, fn(&mut RawMessage));

const BAD_READS: &[Row] = &[
    ("S06 B01 more than asked", |reply| {
        reply.put_u32(28, 8);
        reply.append(&[7; 4]);
    }),
    ("B02 less than asked", |reply| {
        reply.put_u32(28, 2);
        reply.truncate(34);
    }),
    ("B03 count and bytes differ", |reply| reply.put_u32(28, 8)),
    ("S07 B04 the head only", |reply| {
        reply.put_u32(28, 0);
        reply.truncate(32);
    }),
    ("S07 nothing", |reply| reply.set_body(&[])),
    ("B05 another offset", |reply| reply.put_u32(16, 4)),
    ("B05 another region", |reply| reply.put_u32(24, 4)),
    ("S08 B07 EINVAL", |reply| reply.set_plain_error(22)),
    ("S09 EINVAL with a payload", |reply| reply.set_error(22)),
    ("S10 error 0", |reply| reply.set_plain_error(0)),
    ("S10 error 2^32 - 1", |reply| {
        reply.set_plain_error(u32::MAX)
    }),
];

const BAD_WRITES: &[Row] = &[
    ("B06 another count", |reply| reply.put_u32(28, 2)),
    ("B06 another offset", |reply| reply.put_u32(16, 4)),
    ("S08 EIO", |reply| reply.set_plain_error(5)),
];

/// Bends the replies to accesses of the register ID; every other one is left as it is.
fn bend(
    rows: &'static [Row],
    command: u16,
) -> impl FnMut(&RawMessage, RawMessage) -> Result<Vec<Step>> + Send + 'static {
    let mut left = rows.iter();
    move |request: &RawMessage, mut reply: RawMessage| {
        let is_id = reply.command() == command
            && request.u32_at(24) == REGISTER_BAR
            && request.u32_at(16) == ID;
        if let Some((_, bend)) = is_id.then(|| left.next()).flatten() {
            bend(&mut reply);
        }
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn b01_to_b07_s06_to_s10_bad_read_gives_ones_and_the_next_one_is_right() -> Result<()> {
    let mut machine = Setup::new(&[])?.attached(bend(BAD_READS, READ))?;
    for (number, (name, _)) in (0..).zip(BAD_READS) {
        let id = machine.register(ID)?;
        ensure!(id == ONES, "{name}: the read gave {id:#x}");
        machine.set_register(SCRATCH, number)?;
        let scratch = machine.register(SCRATCH)?;
        ensure!(
            scratch == number,
            "{name}: SCRATCH reads {scratch:#x} after it"
        );
    }
    machine.is_in_step()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn b06_bad_answer_to_a_write_leaves_the_device_in_step() -> Result<()> {
    let mut machine = Setup::new(&[])?.attached(bend(BAD_WRITES, WRITE))?;
    for (name, _) in BAD_WRITES {
        machine.set_register(ID, 1)?;
        machine.is_in_step().context(*name)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn refusal_of_every_access_is_said_once() -> Result<()> {
    let refuse = |request: &RawMessage, mut reply: RawMessage| {
        if reply.command() == READ && request.u32_at(24) == REGISTER_BAR {
            reply.set_plain_error(22);
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(refuse)?;
    for _ in 0..100 {
        assert_eq!(machine.register(ID)?, ONES);
    }
    let lines = machine.logged("a read failed");
    ensure!(lines == 1, "{lines} lines:\n{}", machine.log());
    Ok(())
}
