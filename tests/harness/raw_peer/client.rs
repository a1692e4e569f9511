//! The client's part: connects, negotiates, asks.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::bytes::{self, COMMAND, REPLY};
use super::{RawPeer, Received};

impl RawPeer {
    /// Connected, nothing said.
    pub fn connect(socket: impl AsRef<Path>) -> Self {
        Self::over(UnixStream::connect(socket).expect("connect"))
    }

    /// Connected and agreed on the version.
    pub fn negotiated(socket: impl AsRef<Path>) -> Self {
        Self::negotiated_with(socket, r#"{"capabilities":{"max_msg_fds":16}}"#)
    }

    pub fn negotiated_with(socket: impl AsRef<Path>, json: &str) -> Self {
        let peer = Self::connect(socket);
        peer.request(1, &bytes::version(0, 1, json)).succeeded();
        peer
    }

    /// Negotiates as a client of version 0.0 that announces a lot.
    pub fn negotiate(&self) -> Received {
        let json = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        let reply = self.ask(0, 1, &bytes::version(0, 0, json));
        reply.succeeded();
        reply
    }

    #[track_caller]
    pub fn request(&self, command: u16, body: &[u8]) -> Received {
        self.request_with(command, body, &[])
    }

    #[track_caller]
    pub fn request_with(&self, command: u16, body: &[u8], fds: &[BorrowedFd<'_>]) -> Received {
        self.ask_with_fds(self.id(), command, body, fds)
    }

    /// A request with this id.
    #[track_caller]
    pub fn ask(&self, id: u16, command: u16, body: &[u8]) -> Received {
        self.ask_with_fds(id, command, body, &[])
    }

    /// Sends a request and takes the reply, which must be to it.
    #[track_caller]
    pub fn ask_with_fds(
        &self,
        id: u16,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Received {
        self.send_with_fds(&bytes::message(id, command, COMMAND, body), fds);
        let reply = self.recv();
        let about = (reply.id, reply.command, reply.flags & 0xf);
        assert_eq!(about, (id, command, REPLY), "the reply is to the request");
        reply
    }

    /// A valid request is answered: nothing of what came before is left in the stream.
    #[track_caller]
    pub fn is_in_step(&self) {
        self.request(4, &bytes::words(&[16, 0, 0, 0])).succeeded();
    }

    /// Either a valid request is answered, or the server closes or has closed, after error replies if any.
    #[track_caller]
    pub fn is_in_step_or_closed(&self) {
        let id = self.id();
        let request = bytes::message(id, 4, COMMAND, &bytes::words(&[16, 0, 0, 0]));
        // A server that has closed takes no request.
        if std::io::Write::write_all(&mut &self.stream, &request).is_err() {
            return self.is_closed();
        }
        while let Some(reply) = self.try_recv() {
            if (reply.id, reply.command) == (id, 4) && reply.error == 0 {
                reply.succeeded();
                return;
            }
            assert_ne!(reply.errno(), 0, "a reply to nothing: {reply:?}");
        }
    }

    // The requests that many tests need.

    #[track_caller]
    pub fn region_read(&self, region: u32, offset: u64, count: u32) -> Received {
        self.request(9, &bytes::access(region, offset, count, &[]))
    }

    #[track_caller]
    pub fn region_write(&self, region: u32, offset: u64, data: &[u8]) -> Received {
        let body = bytes::access(region, offset, data.len() as u32, data);
        self.request(10, &body)
    }

    #[track_caller]
    pub fn read_u32(&self, region: u32, offset: u64) -> u32 {
        let reply = self.region_read(region, offset, 4);
        reply.succeeded();
        bytes::u32_at(&reply.body, 16)
    }

    #[track_caller]
    pub fn map(&self, address: u64, size: u64, memory: &impl AsFd) -> Received {
        let body = bytes::dma_map(32, 3, 0, address, size);
        self.request_with(2, &body, &[memory.as_fd()])
    }

    #[track_caller]
    pub fn unmap(&self, address: u64, size: u64) -> Received {
        self.request(3, &bytes::dma_unmap(24, 0, address, size))
    }
}
