//! A client that sends whatever bytes a test wants.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use protocol::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::bytes;
use super::server::{PATIENCE, Server};

/// A raw connection to the server.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    next_id: u16,
}

/// A message of the server.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) id: u16,
    pub(crate) command: u16,
    pub(crate) flags: u32,
    pub(crate) error: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Peer {
    /// Connected, nothing said.
    pub(crate) fn connect(server: &Server) -> Peer {
        Peer::over(UnixStream::connect(server.path()).expect("connect"))
    }

    pub(crate) fn over(stream: UnixStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Peer { stream, next_id: 1 }
    }

    /// Connected and agreed on the version.
    pub(crate) fn negotiated(server: &Server) -> Peer {
        Peer::negotiated_with(server, r#"{"capabilities":{"max_msg_fds":16}}"#)
    }

    pub(crate) fn negotiated_with(server: &Server, json: &str) -> Peer {
        let mut peer = Peer::connect(server);
        peer.request(1, &bytes::version(0, 1, json)).succeeded();
        peer
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).expect("send");
    }

    /// One `sendmsg` with descriptors beside its first byte.
    pub(crate) fn send_with(&mut self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        assert_eq!(sent, Ok(message.len()));
    }

    /// As `send_with`, and says who we are (SCM_CREDENTIALS).
    pub(crate) fn send_with_credentials(&mut self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let ours = rustix::net::UCred {
            pid: rustix::process::getpid(),
            uid: rustix::process::getuid(),
            gid: rustix::process::getgid(),
        };
        assert!(control.push(SendAncillaryMessage::ScmCredentials(ours)));
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let slices = [IoSlice::new(message)];
        let sent = sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(message.len()));
    }

    /// One `sendmsg` with two SCM_RIGHTS blocks; the kernel may refuse it, and then nothing is sent.
    pub(crate) fn send_with_two_blocks(&mut self, message: &[u8], fd: BorrowedFd<'_>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8), ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let block = [fd; 2];
        assert!(control.push(SendAncillaryMessage::ScmRights(&block)));
        assert!(control.push(SendAncillaryMessage::ScmRights(&block)));
        let slices = [IoSlice::new(message)];
        if sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL).is_ok() {
            self.receive();
        }
    }

    /// A message id that was not used before.
    pub(crate) fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn request(&mut self, command: u16, body: &[u8]) -> Reply {
        self.request_with(command, body, &[])
    }

    /// Sends a request and takes the reply, which must be to it.
    pub(crate) fn request_with(
        &mut self,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Reply {
        let id = self.id();
        self.send_with(&bytes::message(id, command, 0, body), fds);
        let reply = self.receive();
        assert_eq!(
            (reply.id, reply.command),
            (id, command),
            "the reply is to the request"
        );
        reply
    }

    /// The next message; one must come.
    pub(crate) fn receive(&mut self) -> Reply {
        self.try_receive().expect("the connection is open")
    }

    /// The next message, or nothing if the server has closed.
    pub(crate) fn try_receive(&mut self) -> Option<Reply> {
        let mut header = [0; 16];
        let mut fds = Vec::new();
        let mut filled = 0;
        while filled < header.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut header[filled..])];
            match recvmsg(
                &self.stream,
                &mut slices,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(message) if message.bytes == 0 => break,
                Ok(message) => filled += message.bytes,
                Err(Errno::CONNRESET) => break,
                Err(Errno::INTR) => {}
                Err(errno) => panic!("waited for a message: {errno}"),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
        }
        match filled {
            0 => return None,
            16 => {}
            odd => panic!("{odd} bytes of a header"),
        }
        let size = bytes::u32_at(&header, 4) as usize;
        let mut body = vec![0; size.checked_sub(16).expect("a size that holds the header")];
        self.stream.read_exact(&mut body).expect("the body");
        Some(Reply {
            id: bytes::u16_at(&header, 0),
            command: bytes::u16_at(&header, 2),
            flags: bytes::u32_at(&header, 8),
            error: bytes::u32_at(&header, 12),
            body,
            fds,
        })
    }

    /// A valid request is answered: nothing of what came before is left in the stream.
    pub(crate) fn is_in_step(&mut self) {
        let reply = self.request(4, &bytes::words(&[16, 0, 0, 0]));
        reply.succeeded();
    }

    /// The server closes; it may send error replies first.
    pub(crate) fn is_closed(&mut self) {
        while let Some(reply) = self.try_receive() {
            assert_eq!(
                reply.flags & 0x21,
                0x21,
                "only errors come before the end: {reply:?}"
            );
        }
    }

    /// Waits until the server has accepted this connection.
    pub(crate) fn is_served(&self, server: &Server) {
        server.serves_a_client();
    }

    pub(crate) fn close_for_writing(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half close");
    }

    // The requests that many tests need.

    pub(crate) fn region_read(&mut self, region: u32, offset: u64, count: u32) -> Reply {
        self.request(9, &bytes::access(region, offset, count, &[]))
    }

    pub(crate) fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Reply {
        self.request(10, &bytes::access(region, offset, data.len() as u32, data))
    }

    pub(crate) fn read_u32(&mut self, region: u32, offset: u64) -> u32 {
        let reply = self.region_read(region, offset, 4);
        reply.succeeded();
        bytes::u32_at(&reply.body, 16)
    }

    pub(crate) fn map(&mut self, address: u64, size: u64, memory: &impl AsFd) -> Reply {
        self.request_with(
            2,
            &bytes::dma_map(32, 3, 0, address, size),
            &[memory.as_fd()],
        )
    }

    pub(crate) fn unmap(&mut self, address: u64, size: u64) -> Reply {
        self.request(3, &bytes::dma_unmap(24, 0, address, size))
    }
}

impl Reply {
    /// It is no error.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Reply {
        assert_eq!((self.flags & 0x3f, self.error), (1, 0), "{self:?}");
        self
    }

    /// It is this error, and a header only.
    #[track_caller]
    pub(crate) fn failed(&self, errno: Errno) {
        assert_eq!(self.flags & 0x3f, 0x21, "{self:?}");
        assert_eq!(Errno::from_raw_os_error(self.error.cast_signed()), errno);
        assert!(self.body.is_empty(), "an error reply is a header");
        assert!(self.fds.is_empty());
    }
}
