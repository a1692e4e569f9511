//! Memory that the device reaches by DMA_READ and DMA_WRITE messages to the client.

use std::os::fd::AsFd;

use protocol::Errno;

use crate::support::{Peer, Reply, Server, bytes, descriptors};

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const REGISTERS: u32 = 2;

/// A client with a page of memory at 0x1000 that only messages reach.
fn negotiated(server: &Server, json: &str) -> Peer {
    let peer = Peer::negotiated_with(server, json);
    peer.request(2, &bytes::dma_map(32, 3, 0, 0x1000, 0x1000))
        .succeeded();
    peer.region_write(7, 4, &[4]).succeeded();
    peer
}

/// The same with a twin socket.
fn with_twin(server: &Server) -> (Peer, Peer) {
    let peer = Peer::connect(server);
    let json = r#"{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":true}}}"#;
    let mut reply = peer.request(1, &bytes::version(0, 1, json));
    let twin = Peer::over(reply.fds.pop().expect("the twin").into());
    peer.request(2, &bytes::dma_map(32, 3, 0, 0x1000, 0x1000))
        .succeeded();
    peer.region_write(7, 4, &[4]).succeeded();
    (peer, twin)
}

/// Sends the register write that starts a copy, without waiting for its reply.
fn start_copy(peer: &Peer, len: u32) -> u16 {
    let mut job = 0x1000u64.to_le_bytes().to_vec();
    job.extend_from_slice(&0x1800u64.to_le_bytes());
    job.extend_from_slice(&len.to_le_bytes());
    job.extend_from_slice(&1u32.to_le_bytes());
    let id = peer.id();
    peer.send(&bytes::message(
        id,
        10,
        0,
        &bytes::access(REGISTERS, 0x20, job.len() as u32, &job),
    ));
    id
}

fn answer(peer: &Peer, request: &Reply, body: &[u8]) {
    peer.send(&bytes::message(request.id, request.command, 1, body));
}

/// Plays the client's part of a copy of `data`; returns what was written, and by how many messages.
fn serve_copy(peer: &Peer, write_id: u16, data: &[u8]) -> (Vec<u8>, usize) {
    let mut written = vec![0; data.len()];
    let mut messages = 0;
    loop {
        let message = peer.recv();
        if message.flags & 0xf == 1 {
            assert_eq!(message.succeeded().id, write_id);
            return (written, messages);
        }
        messages += 1;
        let (address, count) = (
            bytes::u64_at(&message.body, 0),
            bytes::u64_at(&message.body, 8),
        );
        if message.command == DMA_READ {
            let start = (address - 0x1000) as usize;
            let piece = &data[start..start + count as usize];
            answer(peer, &message, &bytes::dma_head(address, count, piece));
        } else {
            assert_eq!(message.command, DMA_WRITE);
            let start = (address - 0x1800) as usize;
            written[start..start + count as usize].copy_from_slice(&message.body[16..]);
            answer(peer, &message, &bytes::dma_head(address, count, &[]));
        }
    }
}

#[test]
fn memory_without_descriptor_is_reached_by_messages() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    let id = start_copy(&peer, 100);
    let (written, messages) = serve_copy(&peer, id, &[0x42; 100]);
    assert_eq!((written, messages), (vec![0x42; 100], 2));
    assert_eq!(peer.read_u32(REGISTERS, 0x38), 1);
}

#[test]
fn v25_messages_are_as_small_as_the_client_asks() {
    let server = Server::start();
    let peer = negotiated(&server, r#"{"capabilities":{"max_data_xfer_size":16}}"#);
    let id = start_copy(&peer, 64);
    let (written, messages) = serve_copy(&peer, id, &[7; 64]);
    assert_eq!((written, messages), (vec![7; 64], 8));
}

#[test]
fn requests_that_come_before_the_answer_are_served_after_it() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    let id = start_copy(&peer, 8);
    let dma_read = peer.recv();
    assert_eq!(dma_read.command, DMA_READ);
    let read_id = peer.id();
    peer.send(&bytes::message(
        read_id,
        9,
        0,
        &bytes::access(REGISTERS, 0x38, 4, &[]),
    ));
    answer(&peer, &dma_read, &bytes::dma_head(0x1000, 8, &[1; 8]));
    let (written, _) = serve_copy(&peer, id, &[1; 8]);
    assert_eq!(written, [1; 8]);
    let status = peer.recv();
    assert_eq!(
        (status.id, bytes::u32_at(&status.succeeded().body, 16)),
        (read_id, 1)
    );
}

#[test]
fn f02_descriptors_of_requests_that_are_set_aside_are_bounded() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    let idle = server.fds();
    let id = start_copy(&peer, 8);
    let dma_read = peer.recv();
    let memory = descriptors::memory(0x1000);
    let info = bytes::words(&[16, 0, 0, 0]);
    let flood = 20;
    for number in 0..flood {
        let request = bytes::message(1000 + number, 4, 0, &info);
        peer.send_with_fds(&request, &[memory.as_fd(); 253]);
    }
    // 17 of each: one more than is taken.
    server.settles_at_fds(idle + 17 * usize::from(flood));
    answer(&peer, &dma_read, &bytes::dma_head(0x1000, 8, &[1; 8]));
    serve_copy(&peer, id, &[1; 8]);
    for _ in 0..flood {
        peer.recv().failed(Errno::INVAL);
    }
    assert_eq!(server.fds(), idle);
    server.is_unharmed_by(peer);
}

#[test]
fn refusal_of_the_client_is_the_devices_error() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    let id = start_copy(&peer, 8);
    let dma_read = peer.recv();
    let mut refusal = bytes::message(dma_read.id, DMA_READ, 0x21, &[]);
    refusal[12..16].copy_from_slice(&14u32.to_ne_bytes());
    peer.send(&refusal);
    assert_eq!(peer.recv().succeeded().id, id);
    assert_eq!(peer.read_u32(REGISTERS, 0x38) & 0xffff, 2);
    server.is_unharmed_by(peer);
}

#[test]
fn answer_that_makes_no_sense_closes() {
    let server = Server::start();
    for wrong in [
        bytes::dma_head(0x2000, 8, &[0; 8]),
        bytes::dma_head(0x1000, 4, &[0; 4]),
        bytes::dma_head(0x1000, 8, &[0; 7]),
        bytes::dma_head(0x1000, 8, &[0; 9]),
        Vec::new(),
    ] {
        let peer = negotiated(&server, "{}");
        start_copy(&peer, 8);
        let dma_read = peer.recv();
        answer(&peer, &dma_read, &wrong);
        assert!(peer.try_recv().is_none());
        server.is_unharmed_by(peer);
    }
}

/// The client's part of a copy of 4 bytes, up to `end` bytes of all that it answers; then it says no more.
fn answers_up_to(asked: &Peer, end: usize) {
    let mut left = end;
    while left > 0 {
        let request = asked.recv();
        let (start, data): (u64, &[u8]) = match request.command {
            DMA_READ => (0x1000, &[1, 2, 3, 4]),
            _ => (0x1800, &[]),
        };
        let body = bytes::dma_head(start, 4, data);
        let whole = bytes::message(request.id, request.command, 1, &body);
        let sent = left.min(whole.len());
        asked.send(&whole[..sent]);
        left -= sent;
    }
    asked.close_for_writing();
}

/// Bytes of both answers of a client to a copy of 4 bytes.
const ANSWERS: usize = 36 + 32;

#[test]
fn end_after_every_byte_of_an_answer_is_cleaned_up() {
    let server = Server::start();
    for end in 0..ANSWERS {
        let peer = negotiated(&server, "{}");
        start_copy(&peer, 4);
        answers_up_to(&peer, end);
        while peer.try_recv().is_some() {}
    }
    server.is_unharmed_by(Peer::negotiated(&server));
}

#[test]
fn end_of_the_twin_after_every_byte_of_an_answer_is_cleaned_up() {
    let server = Server::start();
    for end in 0..ANSWERS {
        let (peer, twin) = with_twin(&server);
        start_copy(&peer, 4);
        answers_up_to(&twin, end);
        assert!(peer.try_recv().is_none(), "{end}: no twin, no session");
    }
    server.is_unharmed_by(Peer::negotiated(&server));
}

#[test]
fn requests_without_end_before_the_answer_close() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    start_copy(&peer, 8);
    assert_eq!(peer.recv().command, DMA_READ);
    for _ in 0..100 {
        let message = bytes::message(1, 10, 0, &bytes::access(0, 0, 4096, &[0; 4096]));
        if std::io::Write::write_all(&mut &peer.stream, &message).is_err() {
            break;
        }
    }
    assert!(peer.try_recv().is_none());
    server.is_unharmed_by(peer);
}

#[test]
fn client_that_does_not_answer_is_closed_at_the_deadline() {
    let server = Server::start();
    let peer = negotiated(&server, "{}");
    let started = std::time::Instant::now();
    start_copy(&peer, 8);
    assert_eq!(peer.recv().command, DMA_READ);
    assert!(peer.try_recv().is_none());
    assert!(started.elapsed() < std::time::Duration::from_secs(7));
    server.is_unharmed_by(peer);
}

#[test]
fn message_dma_switch_uses_messages_for_memory_with_a_descriptor() {
    let server = Server::start_with(&["--message-dma"]);
    let peer = Peer::negotiated(&server);
    assert_eq!(peer.read_u32(REGISTERS, 0x0c), 1);
    peer.map(0x1000, 0x1000, &descriptors::memory(0x1000))
        .succeeded();
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
    peer.region_write(7, 4, &[4]).succeeded();
    let id = start_copy(&peer, 8);
    assert_eq!(serve_copy(&peer, id, &[9; 8]).0, [9; 8]);
}

#[test]
fn twin_socket_carries_the_messages() {
    let server = Server::start();
    let (peer, twin) = with_twin(&server);
    let id = start_copy(&peer, 4);
    let read = twin.recv();
    assert_eq!(read.command, DMA_READ);
    answer(&twin, &read, &bytes::dma_head(0x1000, 4, &[1, 2, 3, 4]));
    let write = twin.recv();
    assert_eq!(
        (write.command, &write.body[16..]),
        (DMA_WRITE, &[1, 2, 3, 4][..])
    );
    answer(&twin, &write, &bytes::dma_head(0x1800, 4, &[]));
    assert_eq!(peer.recv().succeeded().id, id);
    peer.region_read(9, 0, 4).failed(Errno::INVAL);
}
