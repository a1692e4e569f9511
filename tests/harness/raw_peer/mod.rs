//! A vfio-user peer without manners, for either side: it sends exactly the bytes that a test gives it.
//!
//! Against a server it is the client that `connect` makes; against a client it is the server that `listen` or `pair`
//! makes. `unharmed` says what every refusal is followed by.
//! Limits: it asserts, so a test that cannot go on fails; every wait ends after `PATIENCE`.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails, and its numbers are small constants"
)]

mod client;
mod server;
pub mod unharmed;
pub mod bytes;
pub mod descriptors;
pub mod fuse;
pub mod lingering;
mod userfault;

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::raw_message::{HEADER_BYTES, RawMessage};
use bytes::{ERROR, REPLY};

pub use server::Played;

/// Longer than any deadline that a test sets.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One end of a connection.
#[derive(Debug)]
pub struct RawPeer {
    pub stream: UnixStream,
    last_id: AtomicU16,
}

/// A message that came.
#[derive(Debug)]
pub struct Received {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub error: u32,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl RawPeer {
    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        let last_id = AtomicU16::new(1);
        Self { stream, last_id }
    }

    /// Two ends: ours, and one for our own code.
    pub fn pair() -> (Self, OwnedFd) {
        let (raw, other) = UnixStream::pair().expect("sockets");
        (Self::over(raw), other.into())
    }

    /// A message id that was not used before.
    pub fn id(&self) -> u16 {
        self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    pub fn send(&self, message: &[u8]) {
        (&self.stream).write_all(message).expect("send");
    }

    /// One `sendmsg` with descriptors beside its first byte.
    pub fn send_with_fds(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        self.send_with_control(message, &mut control);
    }

    /// The same, and says who we are (`SCM_CREDENTIALS`).
    pub fn send_with_credentials(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
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
        self.send_with_control(message, &mut control);
    }

    /// One `sendmsg` with two `SCM_RIGHTS` blocks of two descriptors.
    pub fn send_with_two_blocks(&self, message: &[u8], fd: BorrowedFd<'_>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8), ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let block = [fd; 2];
        assert!(control.push(SendAncillaryMessage::ScmRights(&block)));
        assert!(control.push(SendAncillaryMessage::ScmRights(&block)));
        self.send_with_control(message, &mut control);
    }

    fn send_with_control(&self, message: &[u8], control: &mut SendAncillaryBuffer<'_, '_, '_>) {
        let slices = [IoSlice::new(message)];
        let sent = sendmsg(&self.stream, &slices, control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(message.len()));
    }

    pub fn close_for_writing(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half close");
    }

    /// The next message; one must come.
    pub fn recv(&self) -> Received {
        self.try_recv()
            .expect("a message, not the end of the stream")
    }

    /// The next message, or nothing if the other side has closed.
    pub fn try_recv(&self) -> Option<Received> {
        let message = RawMessage::try_receive(&self.stream).expect("a whole message");
        message.map(Received::from)
    }

    /// The header of the next message with its descriptors; its body has the right length and is still to be read.
    pub fn try_recv_header(&self) -> Option<Received> {
        let message = RawMessage::try_receive_header(&self.stream).expect("a header");
        let mut message = message?;
        message.bytes.resize(message.size().expect("a size"), 0);
        Some(message.into())
    }

    /// Is there something to read before so long?
    pub fn is_answered_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).expect("a time");
        let mut answer = [PollFd::new(&self.stream, PollFlags::IN)];
        poll(&mut answer, Some(&time)).expect("poll") > 0
    }

    /// The other side closes; it may send error replies first.
    #[track_caller]
    pub fn is_closed(&self) {
        while let Some(reply) = self.try_recv() {
            let flags = reply.flags & (REPLY | ERROR);
            assert_eq!(
                flags,
                REPLY | ERROR,
                "only errors before the end: {reply:?}"
            );
        }
    }
}

impl From<RawMessage> for Received {
    fn from(message: RawMessage) -> Self {
        Self {
            id: message.id(),
            command: message.command(),
            flags: message.flags(),
            error: message.u32_at(12),
            body: message.bytes[HEADER_BYTES..].to_vec(),
            fds: message.fds,
        }
    }
}

impl Received {
    /// It is no error.
    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!((self.flags & 0x3f, self.error), (REPLY, 0), "{self:?}");
        self
    }

    /// It is this error, and a header only.
    #[track_caller]
    pub fn failed(&self, errno: Errno) {
        assert_eq!(self.flags & 0x3f, REPLY | ERROR, "{self:?}");
        assert_eq!(Errno::from_raw_os_error(self.error.cast_signed()), errno);
        assert!(self.body.is_empty(), "an error reply is a header");
        assert!(self.fds.is_empty());
    }

    /// The errno of an error reply, which is a header only; 0 for success.
    #[track_caller]
    pub fn errno(&self) -> u32 {
        if self.flags & ERROR == 0 {
            return 0;
        }
        assert!(self.body.is_empty(), "an error reply is a header");
        self.error
    }
}
