//! A receiver over a socket whose other end is raw.

use super::RawPeer;
use protocol::transport::{FrameReceiver, ReceiveLimits, RecvError, StreamSocket, Wait};
use std::time::Duration;

pub const MAX: u32 = 4096;
pub const SOON: Duration = Duration::from_millis(200);

pub const LIMITS: ReceiveLimits = ReceiveLimits {
    max_message_bytes: MAX,
    first_read_bytes: 36,
    message_deadline: SOON,
    blocks_for: None,
};

pub fn receiver() -> (RawPeer, FrameReceiver) {
    receiver_that_blocks_for(None)
}

pub fn receiver_that_blocks_for(blocks_for: Option<Duration>) -> (RawPeer, FrameReceiver) {
    let (peer, socket) = RawPeer::pair();
    let socket = StreamSocket::new(socket, blocks_for).unwrap();
    let limits = ReceiveLimits {
        blocks_for,
        ..LIMITS
    };
    (peer, FrameReceiver::new(socket, limits))
}

/// Receives a message that is there already and returns its id, body and number of descriptors.
pub fn next(receiver: &mut FrameReceiver) -> Result<(u16, Vec<u8>, usize, bool), RecvError> {
    receiver.recv(Wait::Now).map(|frame| {
        (
            frame.header.id.0,
            frame.body.to_vec(),
            frame.fds.len(),
            frame.fds_on_body,
        )
    })
}
