//! A8: REGION_WRITE_MULTI.

use protocol::Errno;

use crate::support::{Peer, Server, bytes};

const MULTI: u16 = 15;
const REGISTERS: u32 = 2;
const BAR0: u32 = 0;

fn negotiated() -> (Server, Peer) {
    let server = Server::start();
    let peer = Peer::negotiated_with(&server, r#"{"capabilities":{"write_multiple":true}}"#);
    (server, peer)
}

fn multi(count: u64, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut body = count.to_ne_bytes().to_vec();
    body.extend(entries.concat());
    body
}

#[test]
fn x01_not_negotiated() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let body = multi(1, &[bytes::write_entry(REGISTERS, 8, 4, 7)]);
    peer.request(MULTI, &body).failed(Errno::INVAL);
    assert_eq!(peer.read_u32(REGISTERS, 8), 0);
    server.is_unharmed_by(peer);
}

#[test]
fn x02_x03_writes_are_done_in_order() {
    let (_server, peer) = negotiated();
    let entries = [
        bytes::write_entry(REGISTERS, 8, 4, 7),
        bytes::write_entry(REGISTERS, 9, 1, 0xff),
    ];
    let reply = peer.request(MULTI, &multi(2, &entries));
    assert_eq!(reply.succeeded().body, 2u64.to_ne_bytes());
    assert_eq!(peer.read_u32(REGISTERS, 8), 0xff07);
    let none = peer.request(MULTI, &multi(0, &[]));
    assert_eq!(none.succeeded().body, 0u64.to_ne_bytes());
}

#[test]
fn x04_to_x08_messages_that_do_not_hold_together_write_nothing() {
    let (server, peer) = negotiated();
    let good = bytes::write_entry(REGISTERS, 8, 4, 7);
    let cases = [
        multi(2, std::slice::from_ref(&good)),
        multi(1 << 61, std::slice::from_ref(&good)),
        multi(2, &[good.clone(), bytes::write_entry(REGISTERS, 8, 9, 7)]),
        multi(
            2,
            &[good.clone(), bytes::write_entry(REGISTERS, 8, u32::MAX, 7)],
        ),
        multi(
            3,
            &[
                good.clone(),
                bytes::write_entry(REGISTERS, 4094, 4, 7),
                good.clone(),
            ],
        ),
        multi(2, &[good.clone(), bytes::write_entry(5, 0, 4, 7)]),
        vec![0; 7],
    ];
    for body in cases {
        peer.request(MULTI, &body).failed(Errno::INVAL);
        assert_eq!(peer.read_u32(REGISTERS, 8), 0);
    }
    server.is_unharmed_by(peer);
}

#[test]
fn x09_two_hundred_writes_without_reply() {
    let (_server, peer) = negotiated();
    let entries: Vec<_> = (0..200u64)
        .map(|n| bytes::write_entry(BAR0, n * 8, 8, n))
        .collect();
    let body = multi(200, &entries);
    assert_eq!(body.len() + 16, 4824);
    peer.send(&bytes::message(1, MULTI, bytes::NO_REPLY, &body));
    let read = peer.region_read(BAR0, 0, 1600);
    for n in 0..200usize {
        assert_eq!(bytes::u64_at(&read.body, 16 + n * 8), n as u64);
    }
}
