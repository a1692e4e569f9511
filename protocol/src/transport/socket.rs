//! The socket under a connection: what it must be, and how to wait for it.

use super::deadline::{Deadline, timespec};
use crate::closing::Line;
use crate::received_fd::ReceivedFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketType, shutdown, sockopt};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A connected Unix stream socket, shared by its reading and its writing side.
#[derive(Clone, Debug)]
pub struct StreamSocket {
    fd: Arc<ReceivedFd>,
    /// What comes on it and is let go of waits here.
    line: Arc<Line>,
}

/// The descriptor cannot carry a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// It is something else.
    #[error("the file descriptor is not a Unix stream socket")]
    NotAUnixStream,
    /// The kernel refused to prepare it.
    #[error("cannot prepare the socket")]
    Prepare(#[source] Errno),
}

impl StreamSocket {
    /// Takes a connected Unix stream socket; a read on it blocks, for `receive_timeout` if there is one.
    ///
    /// # Errors
    /// It is something else, or its options cannot be set.
    pub fn new(
        fd: impl Into<ReceivedFd>,
        receive_timeout: Option<Duration>,
    ) -> Result<Self, SocketError> {
        let fd = fd.into();
        let is_stream = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
        if !is_stream {
            return Err(SocketError::NotAUnixStream);
        }
        let flags = fcntl_getfl(&fd).map_err(SocketError::Prepare)?;
        if flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags.difference(OFlags::NONBLOCK)).map_err(SocketError::Prepare)?;
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, receive_timeout)
            .map_err(SocketError::Prepare)?;
        // Credentials beside every message would take the room of descriptors.
        sockopt::set_socket_passcred(&fd, false).map_err(SocketError::Prepare)?;
        Ok(Self {
            fd: Arc::new(fd),
            line: Arc::default(),
        })
    }

    /// From now on a read blocks until something comes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_receive_timeout(&self) -> Result<(), Errno> {
        sockopt::set_socket_timeout(self, sockopt::Timeout::Recv, None)
    }

    /// Ends the connection in both directions; whoever waits on it wakes up.
    pub fn shut_down(&self) {
        // An error means that it has ended already.
        let _ended = shutdown(self, Shutdown::Both);
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Waits for `events`; returns whether they came before the deadline.
    pub(super) fn wait(&self, events: PollFlags, deadline: Deadline) -> Result<bool, Errno> {
        loop {
            let Some(left) = deadline.remaining() else {
                return Ok(false);
            };
            let mut fds = [PollFd::new(self, events)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
