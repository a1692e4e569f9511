//! The server's side of a connection against a raw client: negotiation and descriptors.
//! Names begin with the rows of conformance.md that they cover.

#![cfg(test)]

mod peers;

use peers::device::{Log, serve};
use peers::{COMMAND, NO_REPLY, Probe, REPLY, RawPeer, message, version_body};
use protocol::server::{CloseReason, ServerConfig};
use protocol::transport::RecvError;
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

const EINVAL: u32 = 22;

fn unnegotiated() -> (RawPeer, JoinHandle<Log>) {
    let (peer, socket) = RawPeer::pair();
    let mut config = ServerConfig::standard();
    config.deadlines.message = Duration::from_millis(300);
    config.deadlines.negotiation = Duration::from_millis(300);
    config.deadlines.send = Duration::from_millis(300);
    (peer, serve(socket, config))
}

fn negotiated() -> (RawPeer, JoinHandle<Log>) {
    let (peer, server) = unnegotiated();
    peer.negotiate();
    (peer, server)
}

fn read_body(offset: u64, count: u32) -> Vec<u8> {
    bytes![offset, 0u32, count]
}

#[test]
fn v01_other_command_first_is_einval_and_closes() {
    for command in [0, 2, 4, 9, 13, 99] {
        let (peer, server) = unnegotiated();
        assert_eq!(peer.ask(1, command, &[0; 32]).errno(), EINVAL);
        peer.is_closed();
        let closed = server.join().unwrap().closed;
        assert!(matches!(closed, Some(CloseReason::Refused(_))));
    }
}

#[test]
fn v02_v03_v04_v06_v07_versions_that_are_agreed_to() {
    let full = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_data_xfer_size":1048576,"migration":{"pgsize":4096,"max_bitmap_size":256},"write_multiple":true,"max_dma_maps":65535}}"#;
    let cases = [
        (bytes![0u16, 0u16], 0u16),
        (bytes![0u16, 1u16], 1),
        (version_body(0, 0, "{}"), 0),
        (version_body(0, 0, full), 0),
        (version_body(0, 99, r#"{"capabilities":{}}"#), 1),
        (version_body(0, 2, r#"{"other":1}"#), 1),
    ];
    for (body, minor) in cases {
        let (peer, _server) = unnegotiated();
        let reply = peer.ask(4, 1, &body);
        assert_eq!(reply.errno(), 0);
        assert_eq!(reply.body[..4], bytes![0u16, minor][..]);
        peer.is_in_step();
    }
}

#[test]
fn v05_v08_v10_v11_v13_v32_bad_version_is_einval_and_closes() {
    let long = format!(
        "{{\"capabilities\":{{}},\"x\":\"{}\"}}",
        "y".repeat(16 << 10)
    );
    let cases = [
        version_body(999, 0, "{}"),
        version_body(1, 0, "{}"),
        vec![],
        vec![0],
        vec![0; 3],
        version_body(0, 0, &long),
        b"\0\0\0\0{}".to_vec(),
        b"\0\0\0\0\0".to_vec(),
        version_body(
            0,
            0,
            r#"{"capabilities":{"twin_socket":{"supported":"yes"}}}"#,
        ),
        version_body(0, 0, r#"{"capabilities":{"pgsizes":2097152}}"#),
    ];
    for body in cases {
        let (peer, server) = unnegotiated();
        assert_eq!(peer.ask(1, 1, &body).errno(), EINVAL);
        peer.is_closed();
        assert!(server.join().unwrap().closed.is_some());
    }
}

#[test]
fn v34_f01_f05_descriptors_that_nobody_asked_for_are_closed() {
    let (peer, _server) = unnegotiated();
    let probe = Probe::new();
    let version = version_body(0, 0, "{}");
    assert_eq!(peer.ask_with_fds(0, 1, &version, &[probe.fd()]).errno(), 0);
    let info = bytes![16u32, 0u32, 0u64];
    assert_eq!(peer.ask_with_fds(1, 4, &info, &[probe.fd()]).errno(), 0);
    assert_eq!(peer.ask_with_fds(2, 13, &[], &[probe.fd(); 16]).errno(), 0);
    probe.expect_closed();
    peer.is_in_step();
}

#[test]
fn v35_v36_version_without_an_answer_closes() {
    for flags in [NO_REPLY, REPLY] {
        let (peer, _server) = unnegotiated();
        peer.send(&message(1, 1, flags, &version_body(0, 0, "{}")));
        peer.is_closed();
    }
}

#[test]
fn v37_second_version_is_einval_and_the_session_lives() {
    let (peer, _server) = negotiated();
    let again = version_body(0, 0, r#"{"capabilities":{"max_msg_fds":0}}"#);
    assert_eq!(peer.ask(1, 1, &again).errno(), EINVAL);
    peer.is_in_step();
    let region = bytes![4096u32, 0u32, 0u32, 0u32, 0u64, 0u64];
    assert_eq!(peer.ask(2, 5, &region).fds.len(), 1);
}

#[test]
fn v38_requests_right_behind_version_are_answered() {
    let (peer, _server) = unnegotiated();
    let mut all = message(0, 1, COMMAND, &version_body(0, 0, "{}"));
    all.extend(message(1, 13, COMMAND, &[]));
    all.extend(message(2, 9, COMMAND, &read_body(0, 4)));
    peer.send(&all);
    let ids: Vec<u16> = (0..3).map(|_| peer.recv().id).collect();
    assert_eq!(ids, [0, 1, 2]);
}

#[test]
fn v39_silent_client_is_closed_at_the_negotiation_deadline() {
    let (peer, server) = unnegotiated();
    peer.is_closed();
    let closed = server.join().unwrap().closed;
    assert_eq!(closed, Some(CloseReason::Receive(RecvError::Deadline)));
}

#[test]
fn v40_reply_is_one_that_every_client_takes() {
    let (peer, socket) = RawPeer::pair();
    let mut config = ServerConfig::standard();
    config.capabilities.twin_socket = protocol::messages::TwinSocket::Supported;
    let _server = serve(socket, config);
    let json = r#"{"capabilities":{"max_msg_fds":1,"write_multiple":true,"twin_socket":{"supported":true}}}"#;
    let reply = peer.ask(0, 1, &version_body(0, 0, json));
    assert!(reply.body.len() + 16 <= 200, "{}", reply.body.len() + 16);
    assert_eq!(reply.fds.len(), 1);
    let text = String::from_utf8(reply.body[4..].to_vec()).unwrap();
    let text = text.strip_suffix('\0').unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let capabilities = &json["capabilities"];
    assert_eq!(capabilities["max_msg_fds"], 16);
    assert_eq!(capabilities["max_data_xfer_size"], 1 << 20);
    assert_eq!(capabilities["max_dma_maps"], 65535);
    assert_eq!(capabilities["pgsizes"], 4096);
    assert_eq!(capabilities["write_multiple"], true);
    assert_eq!(capabilities["twin_socket"]["fd_index"], 0);
    assert!(capabilities.get("migration").is_none());
}

#[test]
fn v31_v22_i14_client_that_takes_no_descriptors_gets_none() {
    let (peer, socket) = RawPeer::pair();
    let mut config = ServerConfig::standard();
    config.capabilities.twin_socket = protocol::messages::TwinSocket::Supported;
    let _server = serve(socket, config);
    let json = r#"{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}"#;
    let reply = peer.ask(0, 1, &version_body(0, 0, json));
    assert!(reply.fds.is_empty());
    assert!(!String::from_utf8_lossy(&reply.body).contains("twin_socket"));
    let region = bytes![4096u32, 0u32, 0u32, 0u32, 0u64, 0u64];
    let reply = peer.ask(2, 5, &region);
    assert!(reply.fds.is_empty());
    assert_eq!(reply.body[4] & 4, 0, "MMAP without a file");
}

#[test]
fn f03_q29_more_descriptors_than_announced_are_einval_and_closed() {
    let (peer, _server) = negotiated();
    let probe = Probe::new();
    let info = bytes![16u32, 0u32, 0u64];
    for count in [17, 253] {
        let fds = vec![probe.fd(); count];
        assert_eq!(peer.ask_with_fds(1, 4, &info, &fds).errno(), EINVAL);
    }
    probe.expect_closed();
    peer.is_in_step();
}

#[test]
fn f04_f06_f07_descriptors_of_refused_requests_are_closed() {
    let (peer, _server) = negotiated();
    let probe = Probe::new();
    let fds = [probe.fd(); 3];
    let unmap = bytes![24u32, 0u32, 0x1000u64, 0x1000u64];
    assert_eq!(peer.ask_with_fds(1, 3, &unmap, &fds).errno(), 0);
    assert_eq!(peer.ask_with_fds(2, 2, &[0; 31], &fds).errno(), EINVAL);
    assert_eq!(peer.ask_with_fds(3, 99, &[0; 31], &fds).errno(), EINVAL);
    probe.expect_closed();
    peer.is_in_step();
}

#[test]
fn f08_set_irqs_with_descriptors_on_its_body_is_einval() {
    let (peer, _server) = negotiated();
    let probe = Probe::new();
    let body = bytes![20u32, 4u32 | 32, 2u32, 0u32, 1u32];
    let bytes = message(1, 8, COMMAND, &body);
    peer.send(&bytes[..3]);
    std::thread::yield_now();
    peer.send_with_fds(&bytes[3..], &[probe.fd()]);
    // If the server had not looked yet, both sends look like one to it: then the descriptor counts.
    let errno = peer.recv().errno();
    assert!(errno == EINVAL || errno == 0);
    probe.expect_closed();
    peer.is_in_step();
}

#[test]
fn f13_our_own_end_as_a_descriptor_does_not_keep_the_connection() {
    let (peer, server) = negotiated();
    let info = bytes![16u32, 0u32, 0u64];
    let own = peer.stream.try_clone().unwrap();
    assert_eq!(peer.ask_with_fds(1, 4, &info, &[own.as_fd()]).errno(), 0);
    drop(own);
    drop(peer);
    let closed = server.join().unwrap().closed;
    assert_eq!(closed, Some(CloseReason::Receive(RecvError::Closed)));
}

#[test]
fn f16_ten_thousand_requests_with_descriptors_close_all() {
    let (peer, _server) = negotiated();
    let probe = Probe::new();
    let info = bytes![16u32, 0u32, 0u64];
    for _ in 0..10_000 {
        assert_eq!(peer.ask_with_fds(1, 4, &info, &[probe.fd(); 8]).errno(), 0);
    }
    probe.expect_closed();
}
