//! Descriptors over real sockets: whose they are, that they close, and what is not theirs.

#![cfg(test)]

mod peers;

use peers::framing::{LIMITS, next, receiver};
use peers::{COMMAND, Probe, REPLY, RawPeer, message};
use protocol::MessageId;
use protocol::transport::{FrameReceiver, RecvError, StreamSocket, Wait};
use rustix::io::{FdFlags, fcntl_getfd};

/// Header-only messages are shorter than the first read: it runs on into the message behind, and takes its
/// descriptors along.
#[test]
fn descriptors_of_the_next_message_stay_with_it() {
    for before in 1..4 {
        let (peer, mut receiver) = receiver();
        let probe = Probe::new();
        for id in 0..before {
            peer.send(&message(id, 13, COMMAND, &[]));
        }
        peer.send_with_fds(&message(100, 8, COMMAND, &[2; 20]), &[probe.fd()]);
        peer.send(&message(101, 13, COMMAND, &[]));
        for id in 0..before {
            assert_eq!(next(&mut receiver), Ok((id, vec![], 0, false)));
        }
        assert_eq!(next(&mut receiver), Ok((100, vec![2; 20], 1, false)));
        assert_eq!(next(&mut receiver), Ok((101, vec![], 0, false)));
        probe.expect_closed();
    }
}

#[test]
fn descriptors_of_two_messages_in_a_row_stay_apart() {
    let (peer, mut receiver) = receiver();
    let (one, two) = (Probe::new(), Probe::new());
    peer.send_with_fds(&message(1, 8, COMMAND, &[2; 20]), &[one.fd()]);
    peer.send_with_fds(&message(2, 8, COMMAND, &[2; 20]), &[two.fd(), two.fd()]);
    assert_eq!(next(&mut receiver).unwrap().2, 1);
    assert_eq!(next(&mut receiver).unwrap().2, 2);
    one.expect_closed();
    two.expect_closed();
}

/// A SET_IRQS that is too short for its own structure, and a DMA_MAP, in one send with a descriptor.
#[test]
fn descriptors_of_either_of_two_messages_end_the_connection() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    let mut both = message(1, 8, COMMAND, &[]);
    both.extend(message(2, 2, COMMAND, &[0; 32]));
    peer.send_with_fds(&both, &[probe.fd()]);
    assert_eq!(next(&mut receiver), Err(RecvError::FdsAmbiguous));
    drop(receiver);
    probe.expect_closed();
}

#[test]
fn error_reply_cannot_be_meant_and_the_next_keeps_its_descriptor() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    peer.send(&message(1, 5, REPLY | peers::ERROR, &[]));
    peer.send_with_fds(&message(2, 5, REPLY, &[0; 32]), &[probe.fd()]);
    assert_eq!(next(&mut receiver), Ok((1, vec![], 0, false)));
    assert_eq!(next(&mut receiver), Ok((2, vec![0; 32], 1, false)));
    probe.expect_closed();
}

#[test]
fn f08_descriptors_on_body_bytes_are_closed_and_marked() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    let bytes = message(1, 8, COMMAND, &[0; 40]);
    peer.send(&bytes[..20]);
    assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
    peer.send_with_fds(&bytes[20..], &[probe.fd()]);
    assert_eq!(next(&mut receiver), Ok((1, vec![0; 40], 0, true)));
    peer.send(&message(2, 13, COMMAND, &[]));
    assert_eq!(next(&mut receiver), Ok((2, vec![], 0, false)));
    probe.expect_closed();
}

#[test]
fn f08_descriptors_inside_the_header_are_closed_and_marked() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    let bytes = message(1, 8, COMMAND, &[0; 20]);
    peer.send(&bytes[..7]);
    assert_eq!(next(&mut receiver), Err(RecvError::NotYet));
    peer.send_with_fds(&bytes[7..], &[probe.fd()]);
    assert_eq!(next(&mut receiver), Ok((1, vec![0; 20], 0, true)));
    probe.expect_closed();
}

#[test]
fn f09_descriptors_with_a_partial_header_closes_fds() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    peer.send_with_fds(&[1], &[probe.fd(); 8]);
    drop(peer);
    assert_eq!(
        next(&mut receiver),
        Err(RecvError::Truncated { received: 1 })
    );
    drop(receiver);
    probe.expect_closed();
}

#[test]
fn f11_all_descriptors_that_the_kernel_carries_are_accounted_for() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    peer.send_with_fds(&message(1, 4, COMMAND, &[0; 16]), &[probe.fd(); 253]);
    assert_eq!(next(&mut receiver).unwrap().2, 253);
    probe.expect_closed();
}

#[test]
fn f12_credentials_beside_a_message_are_ignored() {
    let (peer, socket) = RawPeer::pair();
    // As a careless parent may leave it.
    rustix::net::sockopt::set_socket_passcred(&socket, true).unwrap();
    let mut receiver = FrameReceiver::new(StreamSocket::new(socket, None).unwrap(), LIMITS);
    let (pid, uid, gid) = (
        rustix::process::getpid(),
        rustix::process::getuid(),
        rustix::process::getgid(),
    );
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let credentials = rustix::net::UCred { pid, uid, gid };
    assert!(
        control.push(rustix::net::SendAncillaryMessage::ScmCredentials(
            credentials
        ))
    );
    let bytes = message(1, 10, COMMAND, &[1; 60]);
    let slices = [std::io::IoSlice::new(&bytes)];
    let flags = rustix::net::SendFlags::NOSIGNAL;
    rustix::net::sendmsg(&peer.stream, &slices, &mut control, flags).unwrap();
    assert_eq!(next(&mut receiver), Ok((1, vec![1; 60], 0, false)));
}

#[test]
fn message_that_is_not_taken_closes_fds() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    peer.send_with_fds(&message(1, 4, COMMAND, &[0; 16]), &[probe.fd()]);
    peer.send(&message(2, 4, COMMAND, &[0; 16]));
    assert_eq!(receiver.wait(Wait::Now).unwrap().id, MessageId(1));
    assert_eq!(next(&mut receiver).unwrap().0, 2);
    probe.expect_closed();
}

#[test]
fn f15_received_descriptors_are_closed_on_exec() {
    let (peer, mut receiver) = receiver();
    let probe = Probe::new();
    peer.send_with_fds(&message(1, 2, COMMAND, &[]), &[probe.fd()]);
    let frame = receiver.recv(Wait::Now).unwrap();
    let flags = fcntl_getfd(&frame.fds[0]).unwrap();
    assert!(flags.contains(FdFlags::CLOEXEC));
}
