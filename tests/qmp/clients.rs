//! Several clients at once, and clients that go away.

use std::io::Write;

use anyhow::{Context, Result, anyhow, ensure};
use harness::bare_guest;
use harness::deadline::PROCESS;
use harness::proc_files;
use harness::process;
use harness::raw_message::RawMessage;
use harness::raw_peer::lingering;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::machine::Machine;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn four_clients_at_once_get_their_own_answers_and_all_events() -> Result<()> {
    let machine = Machine::start(bare_guest::TICK, &[])?;
    let mut observer = machine.client()?;
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let mut qmp = machine.client()?;
            Ok(std::thread::spawn(move || -> Result<()> {
                for round in 0..50 {
                    let id = json!([number, round]);
                    let command = ["query-status", "stop", "query-cpus-fast", "cont"][round % 4];
                    let answer = qmp.execute(&json!({"execute": command, "id": id}).to_string())?;
                    ensure!(
                        answer["id"] == id && answer.get("error").is_none(),
                        "{answer}"
                    );
                }
                Ok(())
            }))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a client died"))??;
    }
    observer.succeed(r#"{"execute":"cont"}"#)?;
    let status = observer.succeed(r#"{"execute":"query-status"}"#)?;
    ensure!(status["running"] == true, "{status}");
    // Nobody saw two stops in a row: events come in the order of what they tell.
    let events = observer.events();
    ensure!(events.len() >= 2 && events.len() % 2 == 0, "{events:?}");
    let in_turn = events.iter().zip(["STOP", "RESUME"].iter().cycle());
    ensure!(
        in_turn.clone().all(|(found, expected)| found == expected),
        "{events:?}"
    );
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn clients_that_come_and_go_leave_nothing() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &[])?;
    let mut other = machine.client()?;
    let held = || -> Result<usize> {
        let family = machine.process.family()?;
        let files = family
            .iter()
            .map(|pid| Ok(proc_files::open_files(*pid)?.len()));
        files.sum()
    };
    let before = held()?;
    for round in 0..200 {
        let mut stream = machine.connect()?;
        let text: &[u8] = match round % 4 {
            0 => b"",
            1 => br#"{"execute":"qmp_capabilities"}{"execute":"query-status"}"#,
            2 => br#"{"execute":"qmp_capabilities"}{"execute":"device_add","arguments":{"driver":"#,
            _ => br#"{"execute":"qmp_capabilities"}{"execute":"query-pci"}{"execute":"query-qmp-schema"}"#,
        };
        stream.write_all(text)?;
    }
    other.succeed(r#"{"execute":"query-status"}"#)?;
    harness::deadline::eventually("the clients are gone", PROCESS, || {
        held().ok().filter(|now| *now <= before)
    })?;
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn client_that_sends_a_socket_that_lingers_holds_up_nobody() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &[])?;
    let mut other = machine.client()?;
    let stream = machine.connect()?;
    let (socket, _reader) = lingering::tcp_socket()?;
    let greeting = RawMessage {
        bytes: br#"{"execute":"qmp_capabilities"}"#.to_vec(),
        fds: vec![socket],
    };
    // The VMM takes it when nobody else has it any more.
    let family = machine.process.family()?;
    for pid in &family {
        process::stop(*pid)?;
    }
    greeting.send(&stream)?;
    drop(greeting);
    for pid in &family {
        let process = Pid::from_raw(pid.cast_signed()).context("a process")?;
        kill_process(process, Signal::CONT)?;
    }
    other.succeed(r#"{"execute":"query-status"}"#)?;
    drop(stream);
    other.succeed(r#"{"execute":"query-status"}"#)?;
    machine.quit()
}
