//! Two peers for tests: a raw one that sends exactly the bytes it is told, and a small device behind the server's side.
//! Every wait ends after `PATIENCE`.
#![expect(dead_code, reason = "each test file uses a part of it")]
#![expect(
    unreachable_pub,
    reason = "the lint does not know modules that several test files share"
)]

pub mod device;
pub mod framing;
pub mod script;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than any deadline that a test sets.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const COMMAND: u32 = 0;
pub const REPLY: u32 = 1;
pub const NO_REPLY: u32 = 0x10;
pub const ERROR: u32 = 0x20;

/// A message as bytes.
pub fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    sized(
        id,
        command,
        16 + u32::try_from(body.len()).unwrap(),
        flags,
        0,
        body,
    )
}

/// A message whose size field and error field are free.
pub fn sized(id: u16, command: u16, size: u32, flags: u32, error: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(id.to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// Integers in a row, each as wide as it says.
#[macro_export]
macro_rules! bytes {
    ($($value:expr),* $(,)?) => {{
        let mut out: Vec<u8> = Vec::new();
        $(out.extend_from_slice(&($value).to_ne_bytes());)*
        out
    }};
}

/// A VERSION body: numbers, text and NUL.
pub fn version_body(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut body = bytes![major, minor];
    body.extend(json.as_bytes());
    body.push(0);
    body
}

/// Hexadecimal digits in groups, as bytes.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
    let pairs = digits.chunks_exact(2).map(|pair| pair.iter().collect());
    pairs
        .map(|pair: String| u8::from_str_radix(&pair, 16).unwrap())
        .collect()
}

/// What a function appends.
pub fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// What came: header fields and body.
#[derive(Debug)]
pub struct Received {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub error: u32,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Received {
    /// The errno of an error reply, which has no body; 0 for success.
    pub fn errno(&self) -> u32 {
        if self.flags & ERROR == 0 {
            return 0;
        }
        assert!(self.body.is_empty(), "an error reply is the header alone");
        self.error
    }
}

/// The other end of a socket, without any manners.
#[derive(Debug)]
pub struct RawPeer {
    pub stream: UnixStream,
}

impl RawPeer {
    pub fn pair() -> (Self, OwnedFd) {
        let (raw, other) = UnixStream::pair().unwrap();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        raw.set_write_timeout(Some(PATIENCE)).unwrap();
        (Self { stream: raw }, other.into())
    }

    pub fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }

    pub fn send_with_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let slices = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// The next message; descriptors are taken with the header.
    pub fn recv(&self) -> Received {
        self.try_recv()
            .expect("a message, not the end of the stream")
    }

    /// The next message, or `None` when the other side has closed.
    pub fn try_recv(&self) -> Option<Received> {
        let mut received = self.try_recv_header()?;
        (&self.stream).read_exact(&mut received.body).unwrap();
        Some(received)
    }

    /// The header of the next message with its descriptors; its body has the right length and is still to be read.
    pub fn try_recv_header(&self) -> Option<Received> {
        let mut header = [0; 16];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut header)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(&self.stream, &mut slices, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => panic!("no message in time: {error}"),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got == 0 {
            return None;
        }
        (&self.stream).read_exact(&mut header[got..]).unwrap();
        let u16_at = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        Some(Received {
            id: u16_at(0),
            command: u16_at(2),
            flags: u32_at(8),
            error: u32_at(12),
            body: vec![0; u32_at(4) as usize - 16],
            fds,
        })
    }

    /// The other side closes, possibly after error replies.
    pub fn expect_close(&self) {
        while let Some(reply) = self.try_recv() {
            assert_ne!(reply.errno(), 0, "an answer where the connection must end");
        }
    }

    /// Sends a request and returns its reply, which must belong to it.
    pub fn ask(&self, id: u16, command: u16, body: &[u8]) -> Received {
        self.ask_with_fds(id, command, body, &[])
    }

    pub fn ask_with_fds(
        &self,
        id: u16,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Received {
        self.send_with_fds(&message(id, command, COMMAND, body), fds);
        let reply = self.recv();
        assert_eq!((reply.id, reply.command), (id, command));
        assert_eq!(reply.flags & 0xf, REPLY);
        reply
    }

    /// Negotiates as a client that announces a lot.
    pub fn negotiate(&self) -> Received {
        let json = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        let reply = self.ask(0, 1, &version_body(0, 0, json));
        assert_eq!(reply.errno(), 0);
        reply
    }

    /// Answers a request with success.
    pub fn answer(&self, request: &Received, body: &[u8]) {
        self.send(&message(request.id, request.command, REPLY, body));
    }

    /// Answers a request with an error, the header alone.
    pub fn refuse(&self, request: &Received, errno: u32) {
        let (id, command) = (request.id, request.command);
        self.send(&sized(id, command, 16, REPLY | ERROR, errno, &[]));
    }

    /// Answers a REGION_READ with zeroes, as often as one comes.
    pub fn serve_reads(&self) {
        while let Some(request) = self.try_recv() {
            if request.command == 9 {
                let count = u32::from_ne_bytes(request.body[12..16].try_into().unwrap());
                let mut body = request.body.clone();
                body.resize(16 + count as usize, 0);
                self.answer(&request, &body);
            } else {
                self.refuse(&request, 22);
            }
        }
    }

    /// Plays a server: takes VERSION and answers it with everything that there is.
    pub fn accept(&self) {
        let version = self.recv();
        assert_eq!(version.command, 1);
        let json = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        self.answer(&version, &version_body(0, 1, json));
    }

    /// A read that every device here answers: proves that the stream is in step.
    pub fn expect_alive(&self) {
        let body = bytes![0u64, 0u32, 4u32];
        let reply = self.ask(0x7777, 9, &body);
        assert_eq!(reply.errno(), 0);
        assert_eq!(reply.body.len(), 20);
    }
}

/// A descriptor to be sent, and a way to see that every copy of it has been closed.
pub struct Probe {
    reader: OwnedFd,
    pub writer: Option<OwnedFd>,
}

impl Probe {
    pub fn new() -> Self {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        Self {
            reader,
            writer: Some(writer),
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.writer.as_ref().unwrap().as_fd()
    }

    /// All copies are closed, or will be soon.
    pub fn expect_closed(mut self) {
        self.writer = None;
        let mut fds = [PollFd::new(&self.reader, PollFlags::IN)];
        let wait = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(
            poll(&mut fds, Some(&wait)).unwrap(),
            1,
            "a copy is still open"
        );
        assert!(fds[0].revents().contains(PollFlags::HUP));
    }
}
