//! Each wrong input: an error of the class that QEMU gives, then the same connection serves the next request.

use anyhow::{Context, Result, ensure};
use harness::bare_guest;
use harness::deadline::PROCESS;
use harness::peer_qemu;
use harness::process::Process;
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use serde_json::{Value, json};

use crate::machine::Machine;

const NEXT: &str = r#"{"execute":"query-name","id":"next"}"#;

const GENERIC: &str = "GenericError";
const NO_COMMAND: &str = "CommandNotFound";
const NO_DEVICE: &str = "DeviceNotFound";

/// What is sent, and the class of the first error that comes back.
const CASES: &[(&[u8], &str)] = &[
    // No JSON.
    (br#"{"execute":query-name}"#, GENERIC),
    (br#"{"execute":"query-name",}"#, GENERIC),
    (br#"{"execute" "query-name"}"#, GENERIC),
    (br#"{"execute":"query-name" "id":5}"#, GENERIC),
    (br#"{"execute":"query-name","id":01}"#, GENERIC),
    (b"nonsense\n", GENERIC),
    (b"}", GENERIC),
    (b"]", GENERIC),
    (b",", GENERIC),
    (b":", GENERIC),
    (b"%d", GENERIC),
    (b"{{{{\x00", GENERIC),
    (b"\"abc\n", GENERIC),
    (b"{\"a\":\"abc\n\"}", GENERIC),
    // Keys that come twice.
    (br#"{"execute":"query-name","execute":"stop"}"#, GENERIC),
    (br#"{"execute":"query-name","id":1,"id":2}"#, GENERIC),
    (
        br#"{"execute":"device_del","arguments":{"id":"a","id":"b"}}"#,
        GENERIC,
    ),
    // Invalid UTF-8 and characters.
    (b"{\"execute\":\"query-n\xff\xfeame\"}", GENERIC),
    (
        b"{\"execute\":\"device_del\",\"arguments\":{\"id\":\"\xff\"}}",
        GENERIC,
    ),
    (
        b"{\"execute\":\"device_del\",\"arguments\":{\"id\":\"\xed\xa0\x80\"}}",
        GENERIC,
    ),
    (
        br#"{"execute":"device_del","arguments":{"id":"\ud800"}}"#,
        GENERIC,
    ),
    (
        br#"{"execute":"device_del","arguments":{"id":"\u0000"}}"#,
        NO_DEVICE,
    ),
    (b"\xef\xbb\xbf\n", GENERIC),
    // No request.
    (b"[1,2]", GENERIC),
    (b"5\n", GENERIC),
    (b"null\n", GENERIC),
    (br#""text""#, GENERIC),
    (b"{}", GENERIC),
    (br#"{"arguments":{}}"#, GENERIC),
    (br#"{"execute":5}"#, GENERIC),
    (br#"{"execute":"query-name","arguments":5}"#, GENERIC),
    (br#"{"execute":"query-name","arguments":null}"#, GENERIC),
    (br#"{"execute":"query-name","bogus":1}"#, GENERIC),
    (br#"{"exec-oob":"query-name"}"#, GENERIC),
    // No such command, or not now.
    (br#"{"execute":"no-such"}"#, NO_COMMAND),
    (br#"{"execute":"qmp_capabilities"}"#, NO_COMMAND),
    // Arguments.
    (br#"{"execute":"query-name","arguments":{"x":1}}"#, GENERIC),
    (br#"{"execute":"device_del","arguments":{}}"#, GENERIC),
    (br#"{"execute":"device_del","arguments":{"id":5}}"#, GENERIC),
    (
        br#"{"execute":"device_del","arguments":{"id":"a","x":"b"}}"#,
        GENERIC,
    ),
    (
        br#"{"execute":"device_del","arguments":{"id":"a"}}"#,
        NO_DEVICE,
    ),
    (br#"{"execute":"device_add","arguments":{}}"#, GENERIC),
    (
        br#"{"execute":"device_add","arguments":{"driver":5}}"#,
        GENERIC,
    ),
    (
        br#"{"execute":"device_add","arguments":{"driver":"no-such"}}"#,
        GENERIC,
    ),
    (
        br#"{"execute":"device-list-properties","arguments":{"typename":"no-such"}}"#,
        NO_DEVICE,
    ),
];

/// Sends `input`, then a request that is right. Gives what comes back, the answer to that request last.
fn answers(qmp: &mut Qmp, input: &[u8]) -> Result<Vec<Value>> {
    qmp.send(input)?;
    qmp.send(NEXT)?;
    let mut answers = Vec::new();
    loop {
        let answer = qmp.answer()?;
        answers.push(answer.clone());
        if answer["id"] == "next" {
            return Ok(answers);
        }
    }
}

fn check(qmp: &mut Qmp, input: &[u8], class: &str) -> Result<()> {
    let shown = String::from_utf8_lossy(input.get(..60).unwrap_or(input)).into_owned();
    let answers = answers(qmp, input).with_context(|| shown.clone())?;
    ensure!(
        answers.first().context(shown.clone())?["error"]["class"] == class,
        "{shown}: {answers:?}"
    );
    let next = answers.last().context(shown.clone())?;
    ensure!(next["return"].is_object(), "{shown}: {answers:?}");
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn wrong_input_gets_an_error_and_the_next_request_an_answer() -> Result<()> {
    let machine = Machine::start(bare_guest::TICK, &[])?;
    let mut qmp = machine.client()?;
    for (input, class) in CASES {
        check(&mut qmp, input, class)?;
    }
    let ticks = machine.process.stdout().text().len();
    harness::deadline::eventually("the guest goes on", PROCESS, || {
        (machine.process.stdout().text().len() > ticks).then_some(())
    })?;
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn input_over_the_limits_gets_one_error_and_the_next_request_an_answer() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &[])?;
    let mut qmp = machine.client()?;
    let long = "x".repeat(100_000);
    let deep = ["[".repeat(20_000), "]".repeat(20_000)].concat();
    for input in [
        format!(r#"{{"execute":"query-name","id":"{long}"}}"#),
        format!(r#"{{"execute":"query-name","id":{deep}}}"#),
        format!("{long}\n"),
        deep,
    ] {
        let answers = answers(&mut qmp, input.as_bytes())?;
        ensure!(answers.len() == 2, "{answers:?}");
        ensure!(answers[0]["error"]["class"] == GENERIC, "{answers:?}");
    }
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn command_before_negotiation_gets_the_error_of_qemu_and_its_id() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &[])?;
    let stream = machine.connect()?;
    let text = br#"{"execute":"query-name","id":4}{"execute":"no-such"}{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"execute":"qmp_capabilities"}"#;
    std::io::Write::write_all(&mut &stream, text)?;
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
    let answers: Vec<Value> = lines
        .take(5)
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
    let expected = json!({"error": {"class": NO_COMMAND, "desc": desc}, "id": 4});
    ensure!(answers[1] == expected, "{answers:?}");
    ensure!(answers[2]["error"]["class"] == NO_COMMAND, "{answers:?}");
    ensure!(answers[3]["error"]["class"] == GENERIC, "{answers:?}");
    ensure!(answers[4]["return"].is_object(), "{answers:?}");
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn ids_come_back_as_they_were_and_may_repeat() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &[])?;
    let mut qmp = machine.client()?;
    let ids = [
        json!(1),
        json!(1),
        json!("next"),
        json!({"a": [1, 2.5, null]}),
        json!(null),
        json!(18_446_744_073_709_551_615_u64),
    ];
    for id in &ids {
        qmp.send(json!({"execute": "query-name", "id": id}).to_string())?;
    }
    for id in &ids {
        let answer = qmp.answer()?;
        ensure!(answer.get("id") == Some(id), "{answer} for {id}");
    }
    machine.quit()
}

#[test]
#[ignore = "needs a QEMU with vfio-user-pci: scripts/peer-qemu"]
fn wrong_input_gets_the_same_class_from_qemu() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut qemu = peer_qemu::machine(&scratch.file("initrd"))?.command;
    qemu.args([
        "-M",
        "q35",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
    ]);
    // A monitor each: after some of them one takes no more requests, and a second error of an input could reach the next client of the same.
    let socket = |index: usize| scratch.file(&format!("qmp{index}.sock"));
    for index in 0..=CASES.len() {
        qemu.args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", socket(index)),
        ]);
    }
    let mut process = Process::start("QEMU", &mut qemu)?;
    for (index, (input, class)) in CASES.iter().enumerate() {
        let mut qmp = Qmp::connect(&socket(index))?;
        let shown = String::from_utf8_lossy(input);
        qmp.send(input)?;
        let answer = qmp.answer().with_context(|| shown.clone().into_owned())?;
        ensure!(answer["error"]["class"] == *class, "{shown}: {answer}");
    }
    Qmp::connect(&socket(CASES.len()))?.succeed(r#"{"execute":"quit"}"#)?;
    process.wait(PROCESS)?;
    Ok(())
}
