//! Whole vfio-user messages as bytes, with the descriptors that came with them.
//!
//! Of vfio-user it knows only the 16-byte header (message id, command, size, flags, error): what tests make of it does
//! not depend on our own engine.
//! Limits: a longer message than `MAX_MESSAGE_BYTES` is an error.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

pub const HEADER_BYTES: usize = 16;
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// What the kernel lets one message carry.
const MAX_FDS: usize = 253;

const TYPE_MASK: u32 = 0xf;
const NO_REPLY: u32 = 0x10;

/// One message.
#[derive(Debug)]
pub struct RawMessage {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl RawMessage {
    /// Receives one. Descriptors come with its first byte.
    pub fn receive(from: &UnixStream) -> Result<Self> {
        Self::try_receive(from)?.context("the peer closed")
    }

    /// The same, or nothing if the peer has closed.
    pub fn try_receive(mut from: &UnixStream) -> Result<Option<Self>> {
        let Some(mut message) = Self::try_receive_header(from)? else {
            return Ok(None);
        };
        message.bytes.resize(message.size()?, 0);
        from.read_exact(&mut message.bytes[HEADER_BYTES..])
            .context("the body")?;
        Ok(Some(message))
    }

    /// The header of the next one with its descriptors, or nothing if the peer has closed. The body is still to be read.
    pub fn try_receive_header(mut from: &UnixStream) -> Result<Option<Self>> {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::io::retry_on_intr(|| recvmsg(from, &mut slices, &mut control, flags));
        let count = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno).context("waited for a message"),
        };
        let mut fds = Vec::new();
        for received in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = received {
                fds.extend(rights);
            }
        }
        if count == 0 {
            return Ok(None);
        }
        from.read_exact(&mut bytes[count..])
            .context("the rest of a header")?;
        Ok(Some(Self { bytes, fds }))
    }

    /// What its size field says.
    pub fn size(&self) -> Result<usize> {
        let size = usize::try_from(self.u32_at(4))?;
        anyhow::ensure!(
            (HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&size),
            "a message of {size} bytes"
        );
        Ok(size)
    }

    /// Sends it, whatever its bytes say.
    pub fn send(&self, to: &UnixStream) -> Result<()> {
        self.send_with(to, &[])
    }

    /// The same with more descriptors.
    pub fn send_with(&self, mut to: &UnixStream, more: &[BorrowedFd<'_>]) -> Result<()> {
        let own = self.fds.iter().map(AsFd::as_fd);
        let borrowed: Vec<_> = own.chain(more.iter().copied()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        anyhow::ensure!(
            borrowed.is_empty() || control.push(SendAncillaryMessage::ScmRights(&borrowed)),
            "{} fds",
            borrowed.len()
        );
        let slices = [IoSlice::new(&self.bytes)];
        let sent = sendmsg(to, &slices, &mut control, SendFlags::NOSIGNAL)?;
        Ok(to.write_all(&self.bytes[sent..])?)
    }

    pub fn id(&self) -> u16 {
        u16::from_le_bytes([self.bytes[0], self.bytes[1]])
    }

    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[2], self.bytes[3]])
    }

    pub fn flags(&self) -> u32 {
        self.u32_at(8)
    }

    /// A request, no reply.
    pub fn is_request(&self) -> bool {
        self.flags() & TYPE_MASK == 0
    }

    pub fn wants_no_reply(&self) -> bool {
        self.flags() & NO_REPLY != 0
    }

    /// The integer at this place of the whole message; the body begins at 16.
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// Gives it another body, and its size field what fits.
    pub fn set_body(&mut self, body: &[u8]) {
        self.bytes.truncate(HEADER_BYTES);
        self.append(body);
    }

    /// Cuts it off, and makes the size field what is left.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.append(&[]);
    }

    /// Adds bytes, and makes the size field what is there then.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.put_u32(4, u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// Makes it an error reply that keeps its body, as some servers send it.
    pub fn set_error(&mut self, errno: u32) {
        self.put_u32(8, 0x21);
        self.put_u32(12, errno);
    }

    /// Makes it an error reply, the header alone.
    pub fn set_plain_error(&mut self, errno: u32) {
        self.set_error(errno);
        self.truncate(HEADER_BYTES);
    }
}
