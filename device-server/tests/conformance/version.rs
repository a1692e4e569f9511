//! A2: VERSION and session state.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use protocol::Errno;

use crate::support::{Peer, Reply, Server, bytes};

/// What a VERSION with this payload is answered.
fn version(payload: &[u8]) -> Reply {
    let server = Server::start();
    let peer = Peer::connect(&server);
    let reply = peer.request(1, payload);
    reply.succeeded();
    peer.is_in_step();
    reply
}

fn accepted(json: &str) -> serde_json::Value {
    let reply = version(&bytes::version(0, 1, json));
    let text = std::str::from_utf8(&reply.body[4..reply.body.len() - 1]).expect("UTF-8");
    serde_json::from_str(text).expect("JSON")
}

/// A VERSION with this payload is refused, the connection ends, and the next client is served.
fn refused(payload: &[u8]) {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.request(1, payload).failed(Errno::INVAL);
    peer.is_closed();
    server.is_unharmed_by(peer);
}

fn refused_json(json: &str) {
    refused(&bytes::version(0, 1, json));
}

#[test]
fn v01_any_other_command_first_is_refused_and_closes() {
    let server = Server::start();
    for command in [2, 4, 9, 13, 99] {
        let peer = Peer::connect(&server);
        peer.request(command, &[0; 64]).failed(Errno::INVAL);
        peer.is_closed();
        server.is_unharmed_by(peer);
    }
}

#[test]
fn v02_v03_v04_json_may_be_missing_empty_or_full() {
    version(&bytes::version_raw(0, 0, b""));
    accepted("{}");
    let full = accepted(
        r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"max_dma_maps":100,"pgsizes":4096,
            "twin_socket":{"supported":false},"write_multiple":true,"migration":{"pgsize":4096}}}"#,
    );
    let capabilities = &full["capabilities"];
    assert_eq!(capabilities["write_multiple"], true);
    assert!(capabilities["max_dma_maps"].as_u64().expect("a number") <= 100);
    assert!(
        capabilities.get("migration").is_none(),
        "what we do not do is not agreed"
    );
}

#[test]
fn v05_another_major_version_is_refused() {
    refused(&bytes::version(999, 0, "{}"));
    refused(&bytes::version(1, 0, "{}"));
}

#[test]
fn v06_v07_minor_version_is_the_lower_one() {
    let high = version(&bytes::version(0, 99, "{}"));
    assert!(bytes::u16_at(&high.body, 2) < 99);
    let low = version(&bytes::version(0, 0, "{}"));
    assert_eq!(bytes::u32_at(&low.body, 0), 0);
}

#[test]
fn v08_short_payloads_are_refused() {
    for length in 0..4 {
        refused(&vec![0; length]);
    }
}

#[test]
fn v09_message_above_the_maximum_closes() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.send(&bytes::header(1, 1, (1 << 20) + 33, 0));
    peer.is_closed();
    server.is_unharmed_by(peer);
}

#[test]
fn v10_json_of_a_megabyte_is_refused() {
    refused_json(&format!("{{\"x\":\"{}\"}}", "y".repeat(1_000_000)));
}

#[test]
fn v11_to_v16_text_that_is_not_one_object_and_a_nul_is_refused() {
    refused(&bytes::version_raw(0, 1, b"{}"));
    refused(&bytes::version_raw(0, 1, b"{\0}\0"));
    refused(&bytes::version_raw(0, 1, b"\0"));
    for text in [
        "{",
        "\"",
        "{\"capabilities\":{}",
        "{}{}",
        "{} x",
        "[]",
        "1",
        "null",
    ] {
        refused_json(text);
    }
}

#[test]
fn v17_deep_nesting_is_refused() {
    refused_json(&"[".repeat(5000));
    refused_json(&format!(
        "{{\"a\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    ));
}

#[test]
fn v18_invalid_utf8_is_refused() {
    refused(&bytes::version_raw(0, 1, b"{\"a\":\"\xff\xfe\"}\0"));
}

#[test]
fn v19_capabilities_of_another_type_are_refused() {
    refused_json(r#"{"capabilities":"all"}"#);
}

#[test]
fn v20_max_msg_fds_that_is_no_count_is_refused() {
    for value in ["\"8\"", "-1", "1.5", "null", "[]"] {
        refused_json(&format!("{{\"capabilities\":{{\"max_msg_fds\":{value}}}}}"));
    }
    accepted(r#"{"capabilities":{"max_msg_fds":1025}}"#);
}

#[test]
fn v21_v22_huge_and_zero_max_msg_fds() {
    let server = Server::start();
    let region_info = bytes::region_info(4096, 0);
    let many = Peer::negotiated_with(&server, r#"{"capabilities":{"max_msg_fds":4294967297}}"#);
    assert_eq!(
        many.request(5, &region_info).fds.len(),
        1,
        "it was not taken for 1 by truncation, or 0"
    );
    drop(many);
    let none = Peer::negotiated_with(&server, r#"{"capabilities":{"max_msg_fds":0}}"#);
    let reply = none.request(5, &region_info);
    assert!(reply.succeeded().fds.is_empty());
    assert_eq!(
        bytes::u32_at(&reply.body, 4) & 4,
        0,
        "without a descriptor there is nothing to map"
    );
}

#[test]
fn v23_max_data_xfer_size_0_is_refused() {
    refused_json(r#"{"capabilities":{"max_data_xfer_size":0}}"#);
}

#[test]
fn v24_v25_max_data_xfer_size_huge_or_tiny() {
    accepted(r#"{"capabilities":{"max_data_xfer_size":99999999999999999999}}"#);
    let server = Server::start();
    let peer = Peer::negotiated_with(&server, r#"{"capabilities":{"max_data_xfer_size":1}}"#);
    peer.region_read(2, 0, 1).succeeded();
    peer.region_read(2, 0, 2).failed(Errno::INVAL);
    server.is_unharmed_by(peer);
}

#[test]
fn v26_pgsizes_that_make_no_sense_are_refused() {
    for value in ["\"4096\"", "0", "3"] {
        refused_json(&format!("{{\"capabilities\":{{\"pgsizes\":{value}}}}}"));
    }
}

#[test]
fn v27_v28_migration() {
    for value in ["\"yes\"", "{\"pgsize\":\"4096\"}", "{\"pgsize\":4095}"] {
        refused_json(&format!("{{\"capabilities\":{{\"migration\":{value}}}}}"));
    }
    accepted(r#"{"capabilities":{"migration":{}}}"#);
}

#[test]
fn v29_v30_unknown_and_repeated_keys_are_accepted() {
    accepted(r#"{"x":1,"capabilities":{"y":{"z":[]},"max_msg_fds":1,"max_msg_fds":2}}"#);
}

#[test]
fn v31_twin_socket_is_given_to_a_client_that_asks() {
    let json = r#"{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":true}}}"#;
    let reply = version(&bytes::version(0, 1, json));
    let text = std::str::from_utf8(&reply.body[4..reply.body.len() - 1]).expect("UTF-8");
    let agreed: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let twin = &agreed["capabilities"]["twin_socket"];
    assert_eq!(
        (&twin["supported"], &twin["fd_index"]),
        (&true.into(), &0.into())
    );
    assert_eq!(reply.fds.len(), 1);
}

#[test]
fn v32_v33_twin_socket_of_odd_types() {
    refused_json(r#"{"capabilities":{"twin_socket":{"supported":"yes"}}}"#);
    accepted(r#"{"capabilities":{"twin_socket":{"supported":false,"fd_index":7}}}"#);
}

#[test]
fn v34_descriptors_with_version_are_closed() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    server.serves_a_client();
    let before = server.fds();
    let fd = crate::support::descriptors::eventfd();
    let message = bytes::message(1, 1, 0, &bytes::version(0, 1, "{}"));
    peer.send_with_fds(&message, &[std::os::fd::AsFd::as_fd(&fd)]);
    peer.recv().succeeded();
    assert_eq!(server.fds(), before);
}

#[test]
fn v35_v36_version_without_reply_or_as_a_reply_closes() {
    let server = Server::start();
    for flags in [bytes::NO_REPLY, 1] {
        let peer = Peer::connect(&server);
        peer.send(&bytes::message(1, 1, flags, &bytes::version(0, 1, "{}")));
        peer.is_closed();
        server.is_unharmed_by(peer);
    }
}

#[test]
fn v37_second_version_is_refused_and_changes_nothing() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let json = r#"{"capabilities":{"max_data_xfer_size":1}}"#;
    peer.request(1, &bytes::version(0, 1, json))
        .failed(Errno::INVAL);
    peer.region_read(2, 0, 4).succeeded();
    server.is_unharmed_by(peer);
}

#[test]
fn v38_commands_behind_version_need_not_wait_for_its_reply() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    let mut all = bytes::message(1, 1, 0, &bytes::version(0, 1, "{}"));
    all.extend(bytes::message(2, 4, 0, &bytes::words(&[16, 0, 0, 0])));
    all.extend(bytes::message(3, 9, 0, &bytes::access(2, 0, 4, &[])));
    peer.send(&all);
    for id in 1..=3 {
        assert_eq!(peer.recv().succeeded().id, id);
    }
}

#[test]
fn v39_silent_client_is_closed_at_the_deadline_and_others_are_served() {
    let server = Server::start();
    let started = Instant::now();
    let silent = Peer::connect(&server);
    let waiting = UnixStream::connect(server.path())
        .map(Peer::over)
        .expect("the backlog");
    silent.is_closed();
    assert!(started.elapsed() < Duration::from_secs(7));
    waiting.request(1, &bytes::version(0, 1, "{}")).succeeded();
}

#[test]
fn v40_reply_is_one_that_every_known_client_takes() {
    let json = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_data_xfer_size":1048576,
        "migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true,"max_dma_maps":65535}}"#;
    let reply = version(&bytes::version(0, 0, json));
    assert!(
        reply.body.len() + 16 <= 200,
        "QEMU takes no reply larger than its request"
    );
    assert_eq!(reply.body.last(), Some(&0));
    let text = std::str::from_utf8(&reply.body[4..reply.body.len() - 1]).expect("UTF-8");
    let agreed: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let number = |key: &str| agreed["capabilities"][key].as_u64().expect("a number");
    assert!(number("max_msg_fds") <= 16);
    assert!(number("max_data_xfer_size") <= 64 << 20);
    assert!(number("max_dma_maps") <= 65535);
    assert!(number("pgsizes") != 0 && number("pgsizes") % 4096 == 0);
}

#[test]
fn v41_second_client_waits_and_the_first_is_undisturbed() {
    let server = Server::start();
    let first = Peer::negotiated(&server);
    let second = Peer::connect(&server);
    second.send(&bytes::message(1, 1, 0, &bytes::version(0, 1, "{}")));
    first.is_in_step();
    drop(first);
    second.recv().succeeded();
    second.is_in_step();
}

#[test]
fn v42_a_thousand_connects_leave_nothing() {
    let server = Server::start();
    let idle = server.fds();
    for _ in 0..1000 {
        drop(Peer::connect(&server));
    }
    Peer::negotiated(&server).is_in_step();
    server.settles_at_fds(idle);
}
