//! The server as the one who asks: DMA_READ and DMA_WRITE to a raw client, alone and among its requests.

#![cfg(test)]

mod peers;

use harness::raw_peer::Received;
use peers::device::{DMA_DOORBELL, DMA_SOURCE, Log, serve};
use peers::{COMMAND, ERROR, NO_REPLY, REPLY, RawPeer, message, sized, version_body};
use protocol::messages::TwinSocket;
use protocol::server::{CloseReason, ServerConfig};
use protocol::transport::RecvError;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const EIO: u32 = 5;

/// A server that was told to copy `bytes` bytes, and has not been answered yet. The request has id 9.
fn copying(bytes: u32, json: &str) -> (RawPeer, JoinHandle<Log>) {
    let (peer, socket) = RawPeer::pair();
    let mut config = ServerConfig::standard();
    config.deadlines.dma = Duration::from_millis(300);
    config.capabilities.twin_socket = TwinSocket::Supported;
    let server = serve(socket, config);
    let reply = peer.ask(0, 1, &version_body(0, 1, json));
    assert_eq!(reply.errno(), 0);
    peer.send(&message(
        9,
        10,
        COMMAND,
        &bytes![DMA_DOORBELL, 0u32, 4u32, bytes],
    ));
    (peer, server)
}

fn expect(peer: &RawPeer, command: u16, address: u64, count: u64) -> Received {
    let request = peer.recv();
    assert_eq!((request.command, request.flags), (command, COMMAND));
    assert_eq!(request.body[..16], bytes![address, count]);
    request
}

fn answer_read(peer: &RawPeer, request: &Received, data: &[u8]) {
    peer.answer(request, &[&request.body[..], data].concat());
}

fn expect_done(peer: &RawPeer) {
    let reply = peer.recv();
    assert_eq!((reply.id, reply.command, reply.errno()), (9, 10, 0));
}

#[test]
fn dma_messages_copy_and_the_write_is_answered_last() {
    let (peer, _server) = copying(3, "{}");
    let read = expect(&peer, DMA_READ, DMA_SOURCE, 3);
    answer_read(&peer, &read, &[1, 2, 3]);
    let write = expect(&peer, DMA_WRITE, DMA_SOURCE + 0x1000, 3);
    assert_eq!(write.body[16..], [1, 2, 3]);
    peer.answer(&write, &write.body[..16]);
    expect_done(&peer);
    peer.is_in_step();
}

#[test]
fn requests_before_the_answer_are_set_aside_and_keep_their_order() {
    let (peer, _server) = copying(1, "{}");
    let read = expect(&peer, DMA_READ, DMA_SOURCE, 1);
    let value = bytes![0x40u64, 0u32, 4u32, 7u32];
    peer.send(&message(20, 10, NO_REPLY, &value));
    peer.send(&message(21, 9, COMMAND, &bytes![0x40u64, 0u32, 4u32]));
    peer.send(&message(22, 99, COMMAND, &[0; 8]));
    answer_read(&peer, &read, &[1]);
    let write = expect(&peer, DMA_WRITE, DMA_SOURCE + 0x1000, 1);
    peer.send(&message(23, 13, COMMAND, &[]));
    peer.answer(&write, &write.body[..16]);
    expect_done(&peer);
    let read = peer.recv();
    assert_eq!((read.id, read.body[16]), (21, 7));
    assert_eq!((peer.recv().id, peer.recv().id), (22, 23));
    peer.is_in_step();
}

#[test]
fn v25_client_that_takes_one_byte_is_asked_byte_by_byte() {
    let (peer, _server) = copying(3, r#"{"capabilities":{"max_data_xfer_size":1}}"#);
    for at in 0..3 {
        let read = expect(&peer, DMA_READ, DMA_SOURCE + at, 1);
        answer_read(&peer, &read, &[5]);
    }
    for at in 0..3 {
        let write = expect(&peer, DMA_WRITE, DMA_SOURCE + 0x1000 + at, 1);
        peer.answer(&write, &write.body[..16]);
    }
    expect_done(&peer);
}

#[test]
fn refused_dma_is_the_errno_and_the_connection_lives() {
    for (errno, told) in [(14, 14), (0, EIO), (5000, EIO)] {
        let (peer, _server) = copying(4, "{}");
        let read = expect(&peer, DMA_READ, DMA_SOURCE, 4);
        // With a payload, as some peers send it.
        peer.send(&sized(read.id, DMA_READ, 24, REPLY | ERROR, errno, &[0; 8]));
        let reply = peer.recv();
        assert_eq!((reply.id, reply.errno()), (9, told));
        peer.is_in_step();
    }
}

#[test]
fn answer_that_makes_no_sense_closes() {
    type Mangle = fn(&Received) -> Vec<u8>;
    let answers: [Mangle; 6] = [
        |read| {
            message(
                read.id.wrapping_add(1),
                DMA_READ,
                REPLY,
                &[&read.body[..], &[0; 4]].concat(),
            )
        },
        |read| {
            message(
                read.id,
                DMA_WRITE,
                REPLY,
                &[&read.body[..], &[0; 4]].concat(),
            )
        },
        |read| {
            message(
                read.id,
                DMA_READ,
                REPLY,
                &[&read.body[..], &[0; 3]].concat(),
            )
        },
        |read| {
            message(
                read.id,
                DMA_READ,
                REPLY,
                &[&read.body[..], &[0; 5]].concat(),
            )
        },
        |read| message(read.id, DMA_READ, REPLY, &[]),
        |read| message(read.id, DMA_READ, REPLY, &[&[0; 16][..], &[0; 4]].concat()),
    ];
    for mangle in answers {
        let (peer, server) = copying(4, "{}");
        let read = expect(&peer, DMA_READ, DMA_SOURCE, 4);
        peer.send(&mangle(&read));
        peer.is_closed();
        let closed = server.join().unwrap().closed;
        assert!(matches!(closed, Some(CloseReason::DmaReply { .. })));
    }
}

#[test]
fn client_that_does_not_answer_is_closed_at_the_deadline() {
    let (peer, server) = copying(4, "{}");
    expect(&peer, DMA_READ, DMA_SOURCE, 4);
    peer.is_closed();
    let closed = server.join().unwrap().closed;
    assert_eq!(closed, Some(CloseReason::Receive(RecvError::Deadline)));
}

#[test]
fn n08_flood_of_requests_before_the_answer_is_bounded() {
    for body in [0, 1 << 20] {
        let (peer, server) = copying(4, "{}");
        expect(&peer, DMA_READ, DMA_SOURCE, 4);
        let request = message(1, 9, COMMAND, &vec![0; body]);
        while std::io::Write::write_all(&mut &peer.stream, &request).is_ok() {}
        let closed = server.join().unwrap().closed;
        assert_eq!(closed, Some(CloseReason::TooManyRequests));
    }
}

#[test]
fn twin_carries_dma_messages_and_nothing_else() {
    let json = r#"{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":true}}}"#;
    let (peer, socket) = RawPeer::pair();
    let mut config = ServerConfig::standard();
    config.capabilities.twin_socket = TwinSocket::Supported;
    let server = serve(socket, config);
    let mut reply = peer.ask(0, 1, &version_body(0, 1, json));
    let twin = RawPeer::over(UnixStream::from(reply.fds.remove(0)));
    let copy = message(9, 10, COMMAND, &bytes![DMA_DOORBELL, 0u32, 4u32, 2u32]);
    peer.send(&copy);
    let read = expect(&twin, DMA_READ, DMA_SOURCE, 2);
    answer_read(&twin, &read, &[1, 2]);
    let write = expect(&twin, DMA_WRITE, DMA_SOURCE + 0x1000, 2);
    twin.answer(&write, &write.body);
    expect_done(&peer);
    peer.send(&copy);
    expect(&twin, DMA_READ, DMA_SOURCE, 2);
    twin.send(&message(1, 9, COMMAND, &[0; 16]));
    peer.is_closed();
    let closed = server.join().unwrap().closed;
    assert!(matches!(closed, Some(CloseReason::DmaReply { .. })));
}
