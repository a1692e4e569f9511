//! A1: framing and header.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use protocol::Errno;

use crate::support::{Peer, Server, bytes, descriptors};

const MAX_MESSAGE: u32 = (1 << 20) + 32;
const BAR0: u32 = 0;
const REGISTERS: u32 = 2;

/// Sends bytes after negotiation; the server must close and serve the next client with no descriptor left over.
fn closes_after(message: &[u8]) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.send(message);
    peer.is_closed();
    server.is_unharmed_by(peer);
}

#[test]
fn h01_size_0_closes() {
    closes_after(&bytes::header(1, 4, 0, 0));
}

#[test]
fn h02_size_15_closes() {
    closes_after(&bytes::header(1, 4, 15, 0));
}

#[test]
fn h03_header_only_is_refused_for_all_but_reset() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for command in [2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 18] {
        peer.request(command, &[]).failed(Errno::INVAL);
    }
    peer.request(13, &[]).succeeded();
    server.is_unharmed_by(peer);
}

#[test]
fn h04_size_above_the_maximum_closes_without_reading_the_body() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.send(&bytes::header(1, 10, MAX_MESSAGE + 1, 0));
    peer.is_closed();
    server.is_unharmed_by(peer);
}

#[test]
fn h05_size_of_4_gib_closes_and_allocates_nothing() {
    let server = Server::start();
    let before = server.peak_memory_kib();
    let peer = Peer::connect(&server);
    peer.send(&bytes::header(1, 1, u32::MAX, 0));
    peer.is_closed();
    let peer = Peer::negotiated(&server);
    peer.send(&bytes::header(1, 10, u32::MAX, 0));
    peer.is_closed();
    assert!(
        server.peak_memory_kib() < before + 2048,
        "no buffer was made for it"
    );
}

#[test]
fn h06_largest_message_is_executed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let body = bytes::access(BAR0, 0, 1 << 20, &vec![0x5a; 1 << 20]);
    assert_eq!(body.len() + 16, MAX_MESSAGE as usize);
    peer.request(10, &body).succeeded();
    assert_eq!(peer.read_u32(BAR0, (1 << 20) - 4), 0x5a5a_5a5a);
    peer.is_in_step();
}

#[test]
fn h07_reply_to_nothing_closes() {
    closes_after(&bytes::message(1, 4, 1, &bytes::words(&[16, 0, 0, 0])));
}

#[test]
fn h08_message_types_that_do_not_exist_close() {
    for kind in 2..16 {
        closes_after(&bytes::message(1, 4, kind, &bytes::words(&[16, 0, 0, 0])));
    }
}

#[test]
fn h09_h10_error_bit_and_error_field_of_a_request_are_ignored() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let mut message = bytes::message(77, 4, 1 << 5, &bytes::words(&[16, 0, 0, 0]));
    message[12..16].copy_from_slice(&22u32.to_ne_bytes());
    peer.send(&message);
    peer.recv().succeeded();
}

#[test]
fn h11_reserved_flag_bits_are_ignored_and_not_echoed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.send(&bytes::message(
        78,
        4,
        0xffff_ffc0,
        &bytes::words(&[16, 0, 0, 0]),
    ));
    assert_eq!(peer.recv().flags, 1);
}

#[test]
fn h12_h13_h14_h15_unknown_commands_are_refused_and_their_bodies_read() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for command in [0, 11, 12, 14, 19, 255, 65535] {
        peer.request(command, &[0xab; 100]).failed(Errno::INVAL);
        peer.is_in_step();
    }
    server.is_unharmed_by(peer);
}

#[test]
fn h16_h17_h18_ids_may_repeat_and_are_echoed_in_order() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let info = bytes::message(0, 4, 0, &bytes::words(&[16, 0, 0, 0]));
    let read = bytes::message(0, 9, 0, &bytes::access(REGISTERS, 0, 4, &[]));
    peer.send(&[info, read].concat());
    let (first, second) = (peer.recv(), peer.recv());
    assert_eq!((first.id, first.command), (0, 4));
    assert_eq!((second.id, second.command), (0, 9));
}

#[test]
fn h19_error_replies_are_a_header() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.region_read(REGISTERS, 4095, 4).failed(Errno::INVAL);
    peer.region_write(REGISTERS, 4095, &[1, 2])
        .failed(Errno::INVAL);
    peer.unmap(0x1000, 0x1000).failed(Errno::NOENT);
    server.is_unharmed_by(peer);
}

#[test]
fn h20_one_byte_and_then_nothing_closes_at_the_deadline() {
    closes_in_time(&[0]);
}

#[test]
fn h23_body_that_never_comes_closes_at_the_deadline() {
    closes_in_time(&bytes::header(1, 10, 1000, 0));
}

fn closes_in_time(start: &[u8]) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let started = Instant::now();
    peer.send(start);
    peer.is_closed();
    assert!(
        started.elapsed() >= Duration::from_secs(4),
        "it was given time"
    );
    assert!(
        started.elapsed() < Duration::from_secs(7),
        "but not for ever"
    );
    server.is_unharmed_by(peer);
}

#[test]
fn h21_header_byte_by_byte_is_read() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for byte in bytes::message(9, 4, 0, &bytes::words(&[16, 0, 0, 0])) {
        peer.send(&[byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(peer.recv().succeeded().id, 9);
}

#[test]
fn h22_body_in_pieces_is_read() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let message = bytes::message(9, 10, 0, &bytes::access(BAR0, 0, 8192, &[0x11; 8192]));
    for piece in message.chunks(1000) {
        peer.send(piece);
        std::thread::sleep(Duration::from_millis(2));
    }
    peer.recv().succeeded();
    assert_eq!(peer.read_u32(BAR0, 8188), 0x1111_1111);
}

#[test]
fn h24_slow_loris_closes_at_the_deadline_of_the_message() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let started = Instant::now();
    peer.send(&bytes::header(1, 10, MAX_MESSAGE, 0));
    // One byte every half second: no gap is long, the message never ends.
    while std::io::Write::write_all(&mut &peer.stream, &[0]).is_ok() {
        assert!(
            started.elapsed() < Duration::from_secs(7),
            "the whole message has a deadline"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    server.is_unharmed_by(peer);
}

#[test]
fn h23_beginning_of_a_message_behind_another_meets_its_deadline_beside_device_events() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    // The server polls for this one too, from now on.
    let resample = descriptors::eventfd();
    let body = bytes::set_irqs(4 | 16, 0, 0, 1, &[]);
    peer.request_with(8, &body, &[resample.as_fd()]).succeeded();
    let request = bytes::message(1, 4, 0, &bytes::words(&[16, 0, 0, 0]));
    let start = Instant::now();
    // All of it comes with the first read, which asks for 36 bytes.
    peer.send(&[&request[..], &request[..4]].concat());
    peer.recv().succeeded();
    peer.is_closed();
    assert!(start.elapsed() < Duration::from_secs(9));
    server.is_unharmed_by(peer);
}

#[test]
fn h27_messages_in_one_write_are_handled_in_order() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let mut all = Vec::new();
    for value in 1..=50u8 {
        all.extend(bytes::message(
            value.into(),
            10,
            0,
            &bytes::access(REGISTERS, 8, 1, &[value]),
        ));
        all.extend(bytes::message(
            value.into(),
            9,
            0,
            &bytes::access(REGISTERS, 8, 1, &[]),
        ));
    }
    peer.send(&all);
    for value in 1..=50u8 {
        peer.recv().succeeded();
        let read = peer.recv();
        assert_eq!((read.id, read.body[16]), (value.into(), value));
    }
}

#[test]
fn h28_surplus_payload_is_skipped() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let mut info = bytes::words(&[16, 0, 0, 0]);
    info.resize(4096, 0xee);
    peer.request(4, &info).succeeded();
    let mut region = bytes::region_info(32, 7);
    region.resize(4064, 0xee);
    peer.request(5, &region).succeeded();
    let mut map = bytes::dma_map(32, 3, 0, 0x1000, 0x1000);
    map.resize(100, 0xee);
    peer.request(2, &map).succeeded();
    peer.is_in_step();
}

#[test]
fn h29_payload_one_byte_short_is_refused() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for (command, size) in [
        (2, 32),
        (3, 24),
        (4, 16),
        (5, 32),
        (6, 16),
        (7, 16),
        (8, 20),
        (9, 16),
        (10, 16),
        (16, 8),
        (17, 8),
        (18, 8),
    ] {
        peer.request(command, &vec![0; size - 1])
            .failed(Errno::INVAL);
        peer.is_in_step();
    }
    server.is_unharmed_by(peer);
}

#[test]
fn h30_reset_with_payload_stays_in_step() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(13, &[1, 2, 3, 4]).succeeded();
    peer.is_in_step();
}

#[test]
fn h31_garbage_closes_at_the_first_bad_header() {
    let server = Server::start();
    for seed in 1..40u32 {
        let peer = Peer::connect(&server);
        let mut state = seed;
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 | 0x80
        })
        .take(500)
        .collect();
        peer.send(&garbage);
        peer.close_for_writing();
        peer.is_closed();
        server.is_unharmed_by(peer);
    }
}
