//! Answers that no device can be attached with: the VMM ends with one line that names the device and what is wrong.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::bending_relay::Step;
use harness::raw_message::RawMessage;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::machine::Setup;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const INFO: u16 = 4;

/// Anything but a server that says nothing.
const AT_ONCE: Duration = Duration::from_secs(3);
/// 5 s to answer, and what a busy machine adds.
const ANSWER: Duration = Duration::from_secs(9);

/// A row, the command whose replies it bends, how, and a word of the message.
pub(crate) type Row = (&'static str, u16, fn(&mut RawMessage), &'static str);

pub(crate) fn refuse_all(rows: &[Row]) -> Result<()> {
    let mut setup = Setup::new(&[])?;
    for &(name, command, bend, word) in rows {
        let refusal = setup.refused(move |_: &RawMessage, mut reply: RawMessage| {
            if reply.command() == command {
                bend(&mut reply);
            }
            Ok(vec![Step::Send(reply)])
        });
        let refusal = refusal.with_context(|| name)?;
        let said = refusal.names(&["net", word]);
        said.and_then(|said| said.within(AT_ONCE)).context(name)?;
    }
    // And the server still serves the next one.
    let plain = |_: &RawMessage, reply: RawMessage| Ok(vec![Step::Send(reply)]);
    setup.attached(plain)?.is_in_step()
}

fn version(reply: &mut RawMessage, capabilities: &str) {
    let json = format!("{{\"capabilities\":{{{capabilities}}}}}");
    reply.set_body(&[&[0, 0, 1, 0], json.as_bytes(), &[0]].concat());
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn c01_to_c13_version_that_cannot_be_agreed_to_is_refused() -> Result<()> {
    const TWIN: &str = r#""twin_socket":{"supported":true}"#;
    const TWIN_7: &str = r#""twin_socket":{"supported":true,"fd_index":7}"#;
    refuse_all(&[
        ("C01", VERSION, |it| it.put(16, &[1, 0]), "major"),
        ("C02", VERSION, |it| it.put(18, &[9, 0]), "minor"),
        (
            "C05 junk",
            VERSION,
            |it| it.set_body(b"\0\0\x01\0junk\0"),
            "JSON",
        ),
        (
            "C05 no NUL",
            VERSION,
            |it| it.set_body(b"\0\0\x01\0{}"),
            "NUL",
        ),
        (
            "C06",
            VERSION,
            |it| version(it, r#""max_msg_fds":0"#),
            "no file descriptors",
        ),
        (
            "C08",
            VERSION,
            |it| version(it, r#""max_data_xfer_size":0"#),
            "max_data_xfer_size",
        ),
        (
            "C09",
            VERSION,
            |it| version(it, r#""max_dma_maps":0"#),
            "max_dma_maps",
        ),
        (
            "C10 none",
            VERSION,
            |it| version(it, r#""pgsizes":0"#),
            "pgsizes",
        ),
        (
            "C10 1 GiB",
            VERSION,
            |it| version(it, r#""pgsizes":1073741824"#),
            "pgsizes",
        ),
        ("C12", VERSION, |it| version(it, TWIN), "fd_index"),
        ("C13", VERSION, |it| version(it, TWIN_7), "fd_index"),
    ])
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn c14_twin_socket_that_is_none_is_refused() -> Result<()> {
    let no_socket = |_: &RawMessage, mut reply: RawMessage| {
        if reply.command() == VERSION {
            reply.fds = vec![memfd_create("no-socket", MemfdFlags::CLOEXEC)?];
        }
        Ok(vec![Step::Send(reply)])
    };
    let refusal = Setup::new(&[])?.refused(no_socket)?;
    refusal.names(&["net", "twin socket"])?.within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s04_to_s14_b08_answer_that_is_none_is_refused() -> Result<()> {
    refuse_all(&[
        ("S04", INFO, |it| it.put_u32(4, 10), "size 10"),
        ("S05", INFO, |it| it.put_u32(4, u32::MAX), "size 4294967295"),
        (
            "S07",
            INFO,
            |it| it.truncate(24),
            "shorter than its structure",
        ),
        (
            "S08",
            INFO,
            |it| it.set_plain_error(13),
            "Permission denied",
        ),
        ("S09", INFO, |it| it.set_error(13), "Permission denied"),
        ("S10 0", INFO, |it| it.set_error(0), "Input/output error"),
        (
            "S10 4097",
            INFO,
            |it| it.set_error(4097),
            "Input/output error",
        ),
        (
            "S11",
            INFO,
            |it| it.put(0, &[0xee, 0xee]),
            "an answer to nothing",
        ),
        ("S12", INFO, |it| it.put(2, &[9, 0]), "an answer to nothing"),
        ("S14", INFO, |it| it.put_u32(8, 2), "type"),
        ("B08", DMA_MAP, |it| it.set_plain_error(28), "No space left"),
    ])
}

/// Every kind of answer that a VMM waits for while it attaches a device, and how much of it is in the message.
const ATTACHING: [(u16, usize); 7] = [
    (VERSION, 20),
    (DMA_MAP, 16),
    (INFO, 32),
    (5, 48),
    (6, 32),
    (7, 32),
    (9, 33),
];

// Every byte of every answer is cut in protocol/tests/client_disconnect.rs.
#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s03_server_that_ends_inside_an_answer_is_refused_at_once() -> Result<()> {
    let mut setup = Setup::new(&[])?;
    for (command, least) in ATTACHING {
        for end in [0, 1, 15, 16, least - 1] {
            let cut = move |_: &RawMessage, mut reply: RawMessage| {
                if reply.command() != command {
                    return Ok(vec![Step::Send(reply)]);
                }
                reply.bytes.truncate(end);
                let sent = (end > 0).then_some(Step::Send(reply));
                Ok(sent.into_iter().chain([Step::Close]).collect())
            };
            let refusal = setup.refused(cut);
            let refusal = refusal.with_context(|| format!("command {command}, {end} bytes"))?;
            refusal.names(&["net", "lost"])?.within(AT_ONCE)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s02_s03_s13_s20_server_that_does_not_answer_is_refused_at_the_deadline() -> Result<()> {
    let mut setup = Setup::new(&[])?;
    let silent = |_: &RawMessage, _: RawMessage| Ok(vec![Step::Silence]);
    setup.refused(silent)?.names(&["net"])?.within(ANSWER)?;
    let half = |_: &RawMessage, mut reply: RawMessage| {
        reply.bytes.truncate(20);
        Ok(vec![Step::Send(reply), Step::Close])
    };
    setup.refused(half)?.names(&["net"])?.within(AT_ONCE)?;
    // A request is no answer, so none comes.
    let asks = |_: &RawMessage, mut reply: RawMessage| {
        reply.put_u32(8, 0);
        Ok(vec![Step::Send(reply), Step::Silence])
    };
    setup.refused(asks)?.names(&["net"])?.within(ANSWER)?;
    let slow = |_: &RawMessage, reply: RawMessage| {
        Ok(vec![Step::Trickle(reply.bytes, Duration::from_millis(500))])
    };
    setup.refused(slow)?.names(&["net"])?.within(ANSWER)?;
    Ok(())
}
