//! What a hostile client can make the server log.

use std::os::fd::OwnedFd;

use protocol::Errno;
use rustix::process::Signal;

use crate::support::{Peer, Server};

/// The log lines about refused requests so far.
fn refusals(log: &OwnedFd) -> Vec<serde_json::Value> {
    let mut lines = lines(log);
    lines.retain(|line| line["fields"]["event"] == "message-refused");
    lines
}

fn lines(log: &OwnedFd) -> Vec<serde_json::Value> {
    let mut text = vec![0; 1 << 20];
    let len = rustix::io::pread(log, &mut text, 0).expect("the log");
    let text = std::str::from_utf8(&text[..len]).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn refusals_are_logged_once_per_kind_with_command_field_and_value() {
    let log = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let server = Server::start_logged(&log);
    let peer = Peer::negotiated(&server);
    for _ in 0..1000 {
        peer.region_read(2, 5000, 4).failed(Errno::INVAL);
        peer.unmap(0x7000, 0x1000).failed(Errno::NOENT);
    }
    for command in 100..400 {
        peer.request(command, &[0; 4]).failed(Errno::INVAL);
    }
    let lines = refusals(&log);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[0]["target"], "bulkhead::security");
    let expected = serde_json::json!({
        "message": "Request refused; more of this kind are not logged",
        "event": "message-refused",
        "device": "test",
        "pci": "-",
        "subject": "REGION_READ",
        "detail": "offset is 0x1388: Invalid argument (os error 22)",
    });
    assert_eq!(lines[0]["fields"], expected);
    assert_eq!(lines[0]["level"], "WARN");
}

#[test]
fn every_line_names_its_device() {
    let log = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let mut server = Server::start_logged(&log);
    drop(Peer::negotiated(&server));
    // Once the second one is served, the first one is gone.
    Peer::negotiated(&server).is_in_step();
    server.signal(Signal::TERM);
    server.wait();
    let lines = lines(&log);
    let said = |text: &str| lines.iter().any(|line| line["fields"]["message"] == text);
    assert!(
        said("A client is served") && said("The client is gone"),
        "{lines:#?}"
    );
    for line in lines {
        let span = &line["span"];
        assert_eq!(
            (&span["id"], &span["pci"]),
            (&"test".into(), &"-".into()),
            "{line}"
        );
    }
}
