//! Framing over real sockets: splits, several messages in one read, deadlines.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

mod peers;

use peers::framing::{MAX, SOON, next, receiver, receiver_that_blocks_for};
use peers::{COMMAND, Probe, RawPeer, message, sized};
use protocol::transport::{
    Deadline, FrameSender, Outgoing, Patience, RecvError, SendError, StreamSocket, Wait,
};
use protocol::{CommandCode, HeaderError, HeaderFlags, MessageId};
use std::time::{Duration, Instant};

#[test]
fn h21_h22_message_split_anywhere_is_whole_in_the_end() {
    for body_bytes in [0, 1, 16, 20, 24, 100] {
        let body = vec![7; body_bytes];
        let bytes = message(3, 9, COMMAND, &body);
        for cut in 1..bytes.len() {
            let (peer, mut receiver) = receiver();
            peer.send(&bytes[..cut]);
            assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
            peer.send(&bytes[cut..]);
            assert_eq!(next(&mut receiver), Ok((3, body.clone(), 0, false)));
            assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
        }
    }
}

#[test]
fn h21_message_one_byte_at_a_time_keeps_its_descriptor() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    let bytes = message(3, 2, COMMAND, &[1; 32]);
    peer.send_with_fds(&bytes[..1], &[probe.fd()]);
    for byte in &bytes[1..] {
        assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
        peer.send(&[*byte]);
    }
    assert_eq!(next(&mut receiver), Ok((3, vec![1; 32], 1, false)));
    probe.expect_closed();
}

#[test]
fn h27_messages_in_one_write_come_out_in_order() {
    for body_bytes in [0, 4, 16, 20, 21, 1000] {
        let (peer, mut receiver) = receiver();
        let mut all = Vec::new();
        for id in 0..5 {
            all.extend(message(id, 9, COMMAND, &vec![id as u8; body_bytes]));
        }
        peer.send(&all);
        for id in 0..5 {
            let body = vec![id as u8; body_bytes];
            assert_eq!(next(&mut receiver), Ok((id, body, 0, false)));
        }
        assert!(!receiver.has_buffered());
        assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
    }
}

#[test]
fn buffered_message_is_reported() {
    let (peer, mut receiver) = receiver();
    let mut both = message(0, 13, COMMAND, &[]);
    both.extend(message(1, 13, COMMAND, &[]));
    peer.send(&both);
    assert!(!receiver.has_buffered());
    assert_eq!(next(&mut receiver), Ok((0, vec![], 0, false)));
    assert!(receiver.has_buffered());
    assert_eq!(next(&mut receiver), Ok((1, vec![], 0, false)));
    assert!(!receiver.has_buffered());
}

#[test]
fn h01_h02_h04_h05_h08_header_outside_the_limits_is_an_error_before_the_body() {
    for size in [0, 1, 15, MAX + 1, u32::MAX] {
        let (peer, mut receiver) = receiver();
        peer.send(&sized(1, 9, size, COMMAND, 0, &[]));
        let error = next(&mut receiver).unwrap_err();
        let RecvError::Header(error) = error else {
            panic!("{error}");
        };
        let matches = match error {
            HeaderError::TooSmall { size: told, .. } => told == size && size < 16,
            HeaderError::TooLarge { size: told, .. } => told == size && size > MAX,
            HeaderError::Type { .. } => false,
        };
        assert!(matches, "{error}");
    }
    for kind in 2..16 {
        let (peer, mut receiver) = receiver();
        peer.send(&message(1, 9, kind, &[]));
        let error = next(&mut receiver).unwrap_err();
        assert!(matches!(error, RecvError::Header(HeaderError::Type { .. })));
    }
    let (peer, mut receiver) = receiver();
    peer.send(&message(1, 10, COMMAND, &vec![0; MAX as usize - 16]));
    assert_eq!(next(&mut receiver).unwrap().1.len(), MAX as usize - 16);
}

#[test]
fn h26_end_between_messages_and_inside_one_are_told_apart() {
    let bytes = message(1, 9, COMMAND, &[0; 30]);
    for cut in 0..bytes.len() {
        let (peer, mut receiver) = receiver();
        peer.send(&bytes[..cut]);
        drop(peer);
        let expected = match cut {
            0 => RecvError::Closed,
            received => RecvError::Truncated { received },
        };
        assert_eq!(next(&mut receiver), Err(expected));
    }
}

#[test]
fn h20_h23_deadline_covers_header_and_body() {
    let bytes = message(1, 9, COMMAND, &[0; 30]);
    for blocks_for in [None, Some(Duration::from_millis(30))] {
        for cut in [0, 1, 16, 45] {
            let (peer, mut receiver) = receiver_that_blocks_for(blocks_for);
            peer.send(&bytes[..cut]);
            let start = Instant::now();
            let error = receiver
                .recv(Wait::Until(Deadline::after(SOON)))
                .unwrap_err();
            assert!(start.elapsed() >= SOON && start.elapsed() < 5 * SOON);
            let expected = match cut {
                0 => RecvError::Deadline,
                received => RecvError::Stalled { received },
            };
            assert_eq!(error, expected);
        }
    }
}

#[test]
fn h24_trickle_meets_the_deadline_of_the_whole_message() {
    let (peer, mut receiver) = receiver();
    let bytes = message(1, 9, COMMAND, &[0; 2000]);
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        for byte in bytes {
            if std::io::Write::write_all(&mut &peer.stream, &[byte]).is_err() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    });
    let error = receiver.recv(Wait::Forever).unwrap_err();
    assert!(matches!(error, RecvError::Stalled { received } if received > 0));
    assert!(start.elapsed() < 5 * SOON);
    drop(receiver);
    sender.join().unwrap();
}

#[test]
fn carried_over_bytes_have_their_deadline_too() {
    let (peer, mut receiver) = receiver();
    let mut bytes = message(1, 13, COMMAND, &[]);
    bytes.extend(&message(2, 13, COMMAND, &[])[..5]);
    peer.send(&bytes);
    assert_eq!(next(&mut receiver).unwrap().0, 1);
    let error = receiver.recv(Wait::Forever).unwrap_err();
    assert_eq!(error, RecvError::Stalled { received: 5 });
}

fn outgoing<'a>(data: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        id: MessageId(9),
        command: CommandCode::REGION_WRITE,
        flags: HeaderFlags::COMMAND,
        error: 0,
        head: &[1; 16],
        data,
        fds: &[],
    }
}

#[test]
fn message_larger_than_the_socket_buffer_arrives_whole() {
    let (peer, socket) = RawPeer::pair();
    let sender = FrameSender::new(StreamSocket::new(socket, None).unwrap());
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
    let probe = Probe::new();
    let reader = std::thread::spawn(move || peer.recv());
    let fds = [probe.fd()];
    let message = Outgoing {
        fds: &fds,
        ..outgoing(&data)
    };
    sender
        .send(&message, Patience::For(peers::PATIENCE))
        .unwrap();
    let received = reader.join().unwrap();
    assert_eq!(received.body[..16], [1; 16]);
    assert_eq!(received.body[16..], data);
    assert_eq!(received.fds.len(), 1);
}

#[test]
fn s25_peer_that_does_not_read_costs_the_deadline() {
    let (_peer, socket) = RawPeer::pair();
    let sender = FrameSender::new(StreamSocket::new(socket, None).unwrap());
    let data = vec![0; 1 << 20];
    let start = Instant::now();
    let error = sender.send(&outgoing(&data), Patience::Until(Deadline::after(SOON)));
    assert_eq!(error, Err(SendError::Deadline));
    assert!(start.elapsed() >= SOON && start.elapsed() < 5 * SOON);
}

#[test]
fn s24_n10_peer_that_is_gone_is_an_error_and_no_signal() {
    let (peer, socket) = RawPeer::pair();
    let sender = FrameSender::new(StreamSocket::new(socket, None).unwrap());
    drop(peer);
    let error = sender.send(&outgoing(&[]), Patience::For(SOON));
    assert_eq!(error, Err(SendError::Closed));
}

#[test]
fn socket_of_another_kind_is_refused() {
    let pipe = Probe::new();
    let fd = pipe.writer.unwrap();
    StreamSocket::new(fd, None).unwrap_err();
    let (seqpacket, _other) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    StreamSocket::new(seqpacket, None).unwrap_err();
}
