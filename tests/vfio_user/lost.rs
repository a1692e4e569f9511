//! Answers that lose the device: it reads as ones from then on, one line says why, the VM lives, and no vCPU is held for
//! longer than the deadline of one access.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::bending_relay::Step;
use harness::raw_message::RawMessage;

use crate::machine::{ID, ONES, Setup};

const READ: u16 = 9;
const REGISTER_BAR: u32 = 2;
/// An access has 5 s, whoever looks at it does so once a second, and the machine may be busy.
const ONE_ACCESS: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(3);

/// A row, and what comes instead of the reply to a read of the register ID.
type Row = (&'static str, fn(RawMessage) -> Result<Vec<Step>>);

fn sent(mut reply: RawMessage, bend: impl FnOnce(&mut RawMessage)) -> Result<Vec<Step>> {
    bend(&mut reply);
    Ok(vec![Step::Send(reply), Step::Silence])
}

fn twice(reply: RawMessage, bend: impl FnOnce(&mut RawMessage)) -> Result<Vec<Step>> {
    let mut second = RawMessage {
        bytes: reply.bytes.clone(),
        fds: Vec::new(),
    };
    bend(&mut second);
    Ok(vec![Step::Send(reply), Step::Send(second), Step::Silence])
}

const BREACHES: &[Row] = &[
    ("S04 size 10", |reply| {
        sent(reply, |reply| reply.put_u32(4, 10))
    }),
    ("S05 size 2^32 - 1", |reply| {
        sent(reply, |reply| reply.put_u32(4, u32::MAX))
    }),
    ("S11 another id", |reply| {
        sent(reply, |reply| reply.put(0, &[0xee, 0xee]))
    }),
    ("S12 another command", |reply| {
        sent(reply, |reply| reply.put(2, &[10, 0]))
    }),
    ("S14 type 2", |reply| {
        sent(reply, |reply| reply.put_u32(8, 2))
    }),
    ("T20 a request on the main socket", |reply| {
        sent(reply, |reply| reply.put_u32(8, 0))
    }),
    ("S03 half a header and the end", |mut reply| {
        reply.bytes.truncate(9);
        Ok(vec![Step::Send(reply), Step::Close])
    }),
    ("S03 half a body and the end", |mut reply| {
        reply.bytes.truncate(33);
        Ok(vec![Step::Send(reply), Step::Close])
    }),
    ("S24 the end", |_| Ok(vec![Step::Close])),
];

const LATER: &[Row] = &[
    ("S15 an answer that nobody awaits", |reply| {
        twice(reply, |second| second.put(0, &[0xee, 0xee]))
    }),
    ("S16 the same answer twice", |reply| twice(reply, |_| ())),
];

fn on_id(
    row: &'static Row,
) -> impl FnMut(&RawMessage, RawMessage) -> Result<Vec<Step>> + Send + 'static {
    move |request: &RawMessage, reply: RawMessage| {
        if reply.command() == READ && request.u32_at(24) == REGISTER_BAR && request.u32_at(16) == ID
        {
            return row.1(reply);
        }
        Ok(vec![Step::Send(reply)])
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s03_to_s24_breach_loses_the_device_at_once_and_the_vm_lives() -> Result<()> {
    let mut setup = Setup::new(&[])?;
    for row in BREACHES {
        let mut machine = setup.attached(on_id(row))?;
        let before = machine.fds()?;
        let id = machine.read_within(AT_ONCE, crate::machine::REGISTERS);
        ensure!(id.context(row.0)? == ONES, "{}", row.0);
        machine.has_lost_the_device().context(row.0)?;
        ensure!(machine.fds()? <= before, "{}: descriptors are left", row.0);
        setup = machine.end();
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s15_s16_answer_too_many_loses_the_device() -> Result<()> {
    let mut setup = Setup::new(&[])?;
    for row in LATER {
        let mut machine = setup.attached(on_id(row))?;
        // The first answer is the right one.
        machine.register(ID)?;
        let noticed = harness::deadline::eventually("the loss", AT_ONCE, || {
            (machine.register(ID).ok()? == ONES).then_some(())
        });
        noticed.context(row.0)?;
        machine.has_lost_the_device().context(row.0)?;
        setup = machine.end();
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s18_s20_silence_costs_one_access_its_deadline_and_later_ones_nothing() -> Result<()> {
    const ROWS: &[Row] = &[
        ("S18 silence", |_| Ok(vec![Step::Silence])),
        ("S18 an answer after the deadline", |reply| {
            Ok(vec![Step::Wait(Duration::from_secs(8)), Step::Send(reply)])
        }),
        ("S20 a byte a second", |reply| {
            Ok(vec![Step::Trickle(reply.bytes, Duration::from_secs(1))])
        }),
    ];
    let mut setup = Setup::new(&[])?;
    for row in ROWS {
        let mut machine = setup.attached(on_id(row))?;
        let began = Instant::now();
        let id = machine.read_within(ONE_ACCESS, crate::machine::REGISTERS);
        ensure!(id.context(row.0)? == ONES, "{}", row.0);
        let took = began.elapsed();
        ensure!(took > Duration::from_secs(4), "{}: only {took:?}", row.0);
        let began = Instant::now();
        machine.has_lost_the_device().context(row.0)?;
        ensure!(began.elapsed() < AT_ONCE, "{}: paid twice", row.0);
        setup = machine.end();
    }
    Ok(())
}
