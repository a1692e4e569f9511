//! A10: No_reply, pipelining and floods.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::dma_map::dma_copy;
use crate::support::{Peer, Server, bytes};

const NO_REPLY: u32 = bytes::NO_REPLY;
const REGISTERS: u32 = 2;

#[test]
fn n01_n06_writes_without_reply_are_seen_by_the_next_read() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for value in [1u8, 2, 3] {
        let body = bytes::access(REGISTERS, 8 + u64::from(value), 1, &[value]);
        peer.send(&bytes::message(5, 10, NO_REPLY, &body));
    }
    assert_eq!(peer.read_u32(REGISTERS, 8), 0x0302_0100);
}

#[test]
fn n02_n03_n04_n07_nothing_with_no_reply_is_ever_answered() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let requests = [
        (10, bytes::access(REGISTERS, 4095, 4, &[1; 4])),
        (10, bytes::access(REGISTERS, 8, 4, &[1; 3])),
        (9, bytes::access(REGISTERS, 0, 4, &[])),
        (9, bytes::access(REGISTERS, 5000, 4, &[])),
        (4, bytes::words(&[16, 0, 0, 0])),
        (4, bytes::words(&[1, 0, 0, 0])),
        (3, bytes::dma_unmap(24, 0, 0x7000, 0x1000)),
        (8, bytes::set_irqs(0, 0, 0, 0, &[])),
        (13, Vec::new()),
        (99, vec![0; 50]),
        (1, bytes::version(0, 1, "{}")),
    ];
    for (command, body) in requests {
        peer.send(&bytes::message(1, command, NO_REPLY, &body));
        // The reply to this must be the next message.
        peer.is_in_step();
    }
    assert_eq!(peer.read_u32(REGISTERS, 8), 0);
}

#[test]
fn n05_failed_map_without_reply_maps_nothing() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.send(&bytes::message(
        1,
        2,
        NO_REPLY,
        &bytes::dma_map(32, 3, 0, 0x1001, 0x1000),
    ));
    peer.region_write(7, 4, &[4]).succeeded();
    assert_eq!(dma_copy(&peer, 0x1000, 0x1800, 4), 2 | 14 << 16);
}

#[test]
fn n08_client_that_never_reads_is_closed_and_costs_no_memory() {
    let server = Server::start();
    let idle = server.fds();
    let peer = Peer::negotiated(&server);
    peer.region_read(0, 0, 16384).succeeded();
    let before = server.peak_memory_kib();
    let started = Instant::now();
    let request = bytes::message(1, 9, 0, &bytes::access(0, 0, 16384, &[]));
    // Until the server closes: it stops reading when its replies are not taken.
    let sent = (0..100_000)
        .take_while(|_| (&peer.stream).write_all(&request).is_ok())
        .count();
    assert!(sent < 100_000, "the server stopped reading");
    assert!(started.elapsed() < Duration::from_secs(11));
    server.settles_at_fds(idle);
    assert!(server.peak_memory_kib() < before + 1024);
    Peer::negotiated(&server).is_in_step();
}

#[test]
fn n09_flood_of_writes_without_reply_is_processed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let mut batch = Vec::new();
    for value in 0..1000u32 {
        let body = bytes::access(REGISTERS, 8, 4, &value.to_le_bytes());
        batch.extend(bytes::message(1, 10, NO_REPLY, &body));
    }
    for _ in 0..100 {
        peer.send(&batch);
    }
    assert_eq!(peer.read_u32(REGISTERS, 8), 999);
}

#[test]
fn n10_client_that_leaves_with_replies_unread_is_cleaned_up() {
    let mut server = Server::start();
    let idle = server.fds();
    for _ in 0..20 {
        let peer = Peer::negotiated(&server);
        let request = bytes::message(1, 9, 0, &bytes::access(0, 0, 16384, &[]));
        peer.send(&request.repeat(50));
    }
    assert!(server.is_running());
    Peer::negotiated(&server).is_in_step();
    server.settles_at_fds(idle);
}

#[test]
fn n11_flood_of_resets() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for _ in 0..1000 {
        peer.send(&bytes::message(1, 13, NO_REPLY, &[]));
    }
    // One at the end of the session before, if any, and one for each.
    assert!(peer.read_u32(REGISTERS, 0x18) >= 1000);
}
