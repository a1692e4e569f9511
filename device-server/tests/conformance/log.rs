//! What a hostile client can make the server log.

use std::os::fd::OwnedFd;

use protocol::Errno;

use crate::support::{Peer, Server};

/// The log lines about refused requests so far.
fn refusals(log: &OwnedFd) -> Vec<serde_json::Value> {
    let mut text = vec![0; 1 << 20];
    let len = rustix::io::pread(log, &mut text, 0).expect("the log");
    let text = std::str::from_utf8(&text[..len]).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines
        .filter(|line: &serde_json::Value| line["fields"]["command"].is_string())
        .collect()
}

#[test]
fn refusals_are_logged_once_per_kind_with_command_field_and_value() {
    let log = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let server = Server::start_logged(&log);
    let mut peer = Peer::negotiated(&server);
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
    let fields = &lines[0]["fields"];
    assert_eq!(
        (
            &fields["device"],
            &fields["command"],
            &fields["field"],
            &fields["value"],
            &fields["errno"]
        ),
        (
            &"test".into(),
            &"REGION_READ".into(),
            &"offset".into(),
            &"0x1388".into(),
            &22.into()
        )
    );
}
