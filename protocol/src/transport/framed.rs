//! Both directions of one connection in the hands of one thread.

use super::receiver::{FrameReceiver, ReceiveLimits, Wait};
use super::recv_error::RecvError;
use super::sender::{FrameSender, Outgoing, Patience, SendError};
use super::socket::StreamSocket;
use crate::frame::Frame;
use crate::header::Header;
use std::os::fd::{AsFd, BorrowedFd};

/// Receives and sends whole messages.
#[derive(Debug)]
pub struct Framed {
    socket: StreamSocket,
    receiver: FrameReceiver,
    sender: FrameSender,
}

impl Framed {
    /// Messages over `socket`.
    #[must_use]
    pub fn new(socket: StreamSocket, limits: ReceiveLimits) -> Self {
        Self {
            receiver: FrameReceiver::new(socket.clone(), limits),
            sender: FrameSender::new(socket.clone()),
            socket,
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// See [`FrameReceiver::recv`].
    pub fn recv(&mut self, wait: Wait) -> Result<Frame<'_>, RecvError> {
        self.receiver.recv(wait)
    }

    /// Waits for the next message; see [`FrameReceiver::wait`].
    ///
    /// # Errors
    /// See [`FrameReceiver::recv`].
    pub fn wait(&mut self, wait: Wait) -> Result<Header, RecvError> {
        self.receiver.wait(wait)
    }

    /// The message that was waited for; see [`FrameReceiver::take`].
    pub fn take(&mut self, header: Header) -> Frame<'_> {
        self.receiver.take(header)
    }

    /// Sends a message whole.
    ///
    /// # Errors
    /// See [`FrameSender::send`].
    pub fn send(&self, message: &Outgoing<'_>, patience: Patience) -> Result<(), SendError> {
        self.sender.send(message, patience)
    }

    /// Is a whole message in the buffer? If so, waiting for the socket to become readable would be wrong.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.receiver.has_buffered()
    }

    /// The socket, to end the connection from elsewhere.
    #[must_use]
    pub fn socket(&self) -> &StreamSocket {
        &self.socket
    }
}

impl AsFd for Framed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
