//! A table of descriptors that is full: the kernel drops what a message brought, and that is noticed.
//! In a file of its own: it lowers the limit of its process.

#![cfg(test)]

mod peers;

use peers::{COMMAND, Probe, RawPeer, message};
use protocol::transport::{FrameReceiver, ReceiveLimits, RecvError, StreamSocket, Wait};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::os::fd::AsRawFd;
use std::time::Duration;

#[test]
fn f10_descriptors_that_the_kernel_drops_end_the_connection() {
    let (peer, socket) = RawPeer::pair();
    let socket = StreamSocket::new(socket, None).unwrap();
    let limits = ReceiveLimits {
        max_message_bytes: 4096,
        first_read_bytes: 36,
        message_deadline: Duration::from_secs(1),
        blocks_for: None,
    };
    let mut receiver = FrameReceiver::new(socket, limits);
    let probe = Probe::new();
    peer.send_with_fds(&message(1, 4, COMMAND, &[0; 16]), &[probe.fd(); 8]);
    // Room for two more.
    let next_free = rustix::io::dup(probe.fd()).unwrap();
    let most = u64::try_from(next_free.as_raw_fd()).unwrap() + 2;
    drop(next_free);
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let error = receiver.recv(Wait::Now).unwrap_err();
    assert_eq!(error, RecvError::FdsLost);
    drop(receiver);
    probe.expect_closed();
}
