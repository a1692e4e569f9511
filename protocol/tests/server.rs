//! The server's side of a connection against a raw client: framing, No_reply, REGION_WRITE_MULTI.
//! Names begin with the rows of conformance.md that they cover.

#![cfg(test)]

mod peers;

use peers::device::{Log, serve};
use peers::{COMMAND, ERROR, NO_REPLY, REPLY, RawPeer, message, sized, version_body};
use protocol::server::{CloseReason, Connection, Event, ServerConfig};
use protocol::transport::RecvError;
use std::thread::JoinHandle;
use std::time::Duration;

const EINVAL: u32 = 22;
const MAXMSG: u32 = (1 << 20) + 32;

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
fn h01_h02_h04_h05_h08_h31_bad_header_closes() {
    let bad = [
        sized(1, 9, 0, COMMAND, 0, &[]),
        sized(1, 9, 15, COMMAND, 0, &[]),
        sized(1, 9, MAXMSG + 1, COMMAND, 0, &[]),
        sized(1, 9, u32::MAX, COMMAND, 0, &[]),
        message(1, 9, 2, &[]),
        message(1, 9, 15, &[]),
        vec![0xa5; 64],
    ];
    for bytes in bad {
        let (peer, server) = negotiated();
        peer.send(&bytes);
        peer.is_closed();
        let closed = server.join().unwrap().closed.unwrap();
        assert!(matches!(closed, CloseReason::Receive(RecvError::Header(_))));
    }
}

#[test]
fn h03_h18_h19_header_alone_is_einval_and_nothing_else() {
    let (peer, server) = negotiated();
    for command in [2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18] {
        assert_eq!(
            peer.ask(5, command, &[]).errno(),
            EINVAL,
            "command {command}"
        );
        peer.is_in_step();
    }
    drop(peer);
    let log = server.join().unwrap();
    assert_eq!(log.refusals.len(), 13);
    assert_eq!(log.closed, Some(CloseReason::Receive(RecvError::Closed)));
}

#[test]
fn h06_largest_message_is_taken() {
    let (peer, _server) = negotiated();
    let count = 1u32 << 20;
    let mut body = bytes![0u64, 0u32, count];
    body.resize(16 + count as usize, 0);
    let large = message(1, 10, COMMAND, &body);
    assert_eq!(large.len(), MAXMSG as usize);
    peer.send(&large);
    // The region is smaller than that; what counts is the answer.
    assert_eq!(peer.recv().errno(), EINVAL);
    peer.is_in_step();
}

#[test]
fn h07_s15_reply_to_nothing_closes() {
    let (peer, server) = negotiated();
    peer.send(&message(1, 9, REPLY, &[0; 20]));
    peer.is_closed();
    let closed = server.join().unwrap().closed;
    assert!(matches!(closed, Some(CloseReason::Refused(_))));
}

#[test]
fn h09_h10_h11_flags_and_error_that_mean_nothing_are_ignored() {
    let (peer, _server) = negotiated();
    for (flags, error) in [(ERROR, 0), (0, 77), (0xffff_ffc0, 5)] {
        let body = read_body(0, 4);
        peer.send(&sized(1, 9, 32, flags, error, &body));
        let reply = peer.recv();
        assert_eq!((reply.errno(), reply.flags), (0, REPLY));
    }
}

#[test]
fn h12_h13_h14_h15_command_that_a_server_has_not_is_einval_with_its_body_consumed() {
    let (peer, _server) = negotiated();
    for command in [0, 11, 12, 14, 19, 65535] {
        for body in [&[0u8; 16][..], &[0; 4000]] {
            assert_eq!(peer.ask(1, command, body).errno(), EINVAL);
            peer.is_in_step();
        }
    }
}

#[test]
fn h16_h17_h27_n06_ids_may_repeat_and_answers_come_in_order() {
    let (peer, _server) = negotiated();
    let mut all = Vec::new();
    for value in 1u32..4 {
        let write = bytes![0u64, 0u32, 4u32, value];
        all.extend(message(0, 10, NO_REPLY, &write));
    }
    for count in 1u32..9 {
        all.extend(message(0, 9, COMMAND, &read_body(0, count)));
    }
    peer.send(&all);
    for count in 1u32..9 {
        let reply = peer.recv();
        assert_eq!((reply.id, reply.body.len()), (0, 16 + count as usize));
        assert_eq!(reply.body[16], 3);
    }
}

#[test]
fn h23_h24_body_that_never_comes_closes_at_the_deadline() {
    let (peer, server) = negotiated();
    peer.send(&message(1, 10, COMMAND, &[0; 100])[..60]);
    peer.is_closed();
    let closed = server.join().unwrap().closed;
    assert_eq!(
        closed,
        Some(CloseReason::Receive(RecvError::Stalled { received: 60 }))
    );
}

#[test]
fn h25_h26_l02_end_inside_a_message_executes_nothing() {
    let write = message(1, 10, COMMAND, &bytes![0u64, 0u32, 4u32, u32::MAX]);
    for cut in 1..write.len() {
        let (peer, server) = negotiated();
        peer.send(&write[..cut]);
        peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(peer.try_recv().is_none());
        let closed = server.join().unwrap().closed;
        let truncated = RecvError::Truncated { received: cut };
        assert_eq!(closed, Some(CloseReason::Receive(truncated)));
    }
}

#[test]
fn h28_h30_r18_surplus_payload_is_skipped() {
    let (peer, _server) = negotiated();
    let padded = |mut body: Vec<u8>| {
        body.resize(4064, 0xee);
        body
    };
    assert_eq!(
        peer.ask(1, 4, &padded(bytes![16u32, 0u32, 0u64])).errno(),
        0
    );
    let region = bytes![32u32, 0u32, 0u32, 0u32, 0u64, 0u64];
    assert_eq!(peer.ask(2, 5, &padded(region)).errno(), 0);
    let map = bytes![32u32, 3u32, 0u64, 0x1000u64, 0x1000u64];
    assert_eq!(peer.ask(3, 2, &padded(map)).errno(), 0);
    assert_eq!(peer.ask(4, 9, &padded(read_body(0, 4))).errno(), 0);
    assert_eq!(peer.ask(5, 13, &[0; 4]).errno(), 0);
    peer.is_in_step();
}

#[test]
fn n01_n02_n03_n04_n05_n07_u20_no_reply_is_never_answered() {
    let (peer, _server) = negotiated();
    let silent = [
        (10, bytes![8u64, 0u32, 4u32, 0x1234_5678u32]),
        (10, bytes![u64::MAX, 0u32, 4u32, 0u32]),
        (10, bytes![0u64, 0u32, 9u32, 0u32]),
        (9, bytes![0u64, 0u32, 4u32]),
        (9, vec![1, 2, 3]),
        (4, bytes![16u32, 0u32, 0u64]),
        (2, bytes![32u32, 0u32, 0u64, 0u64, 0u64]),
        (3, bytes![24u32, 0u32, 0u64, 0x1000u64]),
        (1, version_body(0, 0, "{}")),
        (99, vec![0; 64]),
        (13, vec![]),
    ];
    for (command, body) in silent {
        peer.send(&message(1, command, NO_REPLY, &body));
    }
    let reply = peer.ask(2, 9, &read_body(8, 4));
    assert_eq!(reply.body[16..], 0x1234_5678u32.to_ne_bytes());
}

#[test]
fn n08_client_that_never_reads_is_closed_at_the_send_deadline() {
    let (peer, server) = negotiated();
    let request = message(1, 9, COMMAND, &read_body(0, 4096));
    loop {
        if std::io::Write::write_all(&mut &peer.stream, &request).is_err() {
            break;
        }
    }
    let closed = server.join().unwrap().closed.unwrap();
    assert!(matches!(closed, CloseReason::Send(_)), "{closed}");
}

#[test]
fn x01_x02_x09_write_multi_only_when_agreed() {
    let entry = |offset: u64, value: u64| bytes![offset, 0u32, 8u32, value];
    let mut body = bytes![2u64];
    body.extend(entry(0, 1));
    body.extend(entry(8, 2));
    let (peer, _server) = negotiated();
    let reply = peer.ask(1, 15, &body);
    assert_eq!((reply.errno(), reply.body), (0, bytes![2u64]));
    let mut many = bytes![200u64];
    for n in 0..200 {
        many.extend(entry(n * 8, n));
    }
    peer.send(&message(2, 15, NO_REPLY, &many));
    let reply = peer.ask(3, 9, &read_body(199 * 8, 8));
    assert_eq!(reply.body[16..], 199u64.to_ne_bytes());

    let (peer, _server) = unnegotiated();
    peer.ask(0, 1, &version_body(0, 0, "{}"));
    assert_eq!(peer.ask(1, 15, &body).errno(), EINVAL);
    peer.is_in_step();
}

#[test]
fn shutdown_from_elsewhere_ends_an_idle_connection() {
    let (_peer, socket) = RawPeer::pair();
    let mut connection = Connection::new(socket, ServerConfig::standard()).unwrap();
    let socket = connection.socket().clone();
    let waiting = std::thread::spawn(move || matches!(connection.next_event(), Event::Closed(_)));
    socket.shut_down();
    assert!(waiting.join().unwrap());
}
