//! The reading side: bytes in, whole messages out.
//!
//! The first read of a message asks for a little more than a header, so that a register access costs one `recvmsg`;
//! the rest of a longer message is read to its last byte and no further. Bytes of the next message that came along stay.
//!
//! Whose descriptors are they? The kernel ends a read behind the send that carried some, so those that a read returns
//! were sent with its last bytes: they belong to the last message that starts in this read. If an earlier message
//! that starts in it could carry descriptors as well, nobody can tell, and the connection ends. Descriptors that come
//! where no message starts are closed and the message is marked.

use super::deadline::Deadline;
use super::recv_error::RecvError;
use super::socket::StreamSocket;
use crate::closing::is_full;
use crate::frame::Frame;
use crate::header::{Header, HeaderError};
use crate::limits::{HEADER_BYTES, KERNEL_MAX_FDS};
use crate::received_fd::{ReceivedFd, received};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::time::Duration;

/// How long to wait for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Now,
    /// Until the whole message is there.
    Until(Deadline),
    /// Until the whole message is there or another thread shuts the socket down. The kernel's timer for a read that
    /// ends costs as much as a tenth of an access.
    Watched,
    /// For ever for its first byte; from there on `MESSAGE_DEADLINE`.
    Forever,
}

/// What a receiver takes, and how long it waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Largest message, in bytes; a larger size field is an error before the body is read.
    pub max_message_bytes: u32,
    /// What the first read of a message asks for, in bytes; at least a header.
    pub first_read_bytes: usize,
    /// How long a message may take from its first byte to its last.
    pub message_deadline: Duration,
    /// A blocking read returns after this long: the socket's own timeout. `None`: only when something came.
    pub blocks_for: Option<Duration>,
}

/// Receives whole messages.
#[derive(Debug)]
pub struct FrameReceiver {
    socket: StreamSocket,
    limits: ReceiveLimits,
    buffer: Vec<u8>,
    /// Bytes in the buffer.
    filled: usize,
    /// Bytes of the message that was handed out last; they go first of all.
    consumed: usize,
    /// Descriptors of the message at the front of the buffer.
    fds: Vec<ReceivedFd>,
    fds_on_body: bool,
    /// Descriptors of the message that starts at this place in the buffer.
    next_fds: Option<(usize, Vec<ReceivedFd>)>,
    /// When the message at the front has to be whole.
    message_deadline: Option<Deadline>,
}

impl FrameReceiver {
    /// Receives from `socket`.
    #[must_use]
    pub fn new(socket: StreamSocket, limits: ReceiveLimits) -> Self {
        let bytes = usize::try_from(limits.max_message_bytes).unwrap_or(HEADER_BYTES);
        Self {
            socket,
            limits,
            // Zeroed pages are not in memory before they are used.
            buffer: vec![0; bytes.saturating_add(limits.first_read_bytes)],
            filled: 0,
            consumed: 0,
            fds: Vec::new(),
            fds_on_body: false,
            next_fds: None,
            message_deadline: None,
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// See [`RecvError`]; descriptors that came so far are closed when the receiver is dropped.
    pub fn recv(&mut self, wait: Wait) -> Result<Frame<'_>, RecvError> {
        let header = self.wait(wait)?;
        Ok(self.take(header))
    }

    /// Waits until the next message is whole and returns its header; [`Self::take`] hands it out.
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub fn wait(&mut self, wait: Wait) -> Result<Header, RecvError> {
        let (header, size) = self.fill(wait)?;
        self.consumed = size;
        self.message_deadline = None;
        Ok(header)
    }

    /// The message whose `header` the last [`Self::wait`] returned. A second call has no descriptors.
    pub fn take(&mut self, header: Header) -> Frame<'_> {
        Frame {
            header,
            body: self
                .buffer
                .get(HEADER_BYTES..self.consumed)
                .unwrap_or_default(),
            fds: std::mem::take(&mut self.fds),
            fds_on_body: std::mem::take(&mut self.fds_on_body),
        }
    }

    /// The socket has no timer any more: reads with a deadline wait outside `recvmsg` from now on.
    pub fn forget_timer(&mut self) {
        self.limits.blocks_for = None;
    }

    /// File descriptors of the message that was waited for.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        self.fds.len()
    }

    /// Closes the descriptors that have come and were not taken.
    pub fn close_fds(&mut self) {
        self.fds.clear();
        self.next_fds = None;
    }

    /// Is a whole message in the buffer? If so, waiting for the socket to become readable would be wrong.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        match self.header_at(self.consumed) {
            // An error is to be seen at once, too.
            Some(Err(_)) => true,
            Some(Ok((_, end))) => end <= self.filled,
            None => false,
        }
    }

    /// Has some of the next message come? It is then to be read to its end: its deadline runs from the first read on.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.filled > self.consumed
    }

    /// Reads until the buffer starts with a whole message; returns its header and size.
    fn fill(&mut self, wait: Wait) -> Result<(Header, usize), RecvError> {
        self.drop_consumed();
        loop {
            let header = self.header_at(0).transpose()?;
            if let Some((header, size)) = header.filter(|(_, size)| *size <= self.filled) {
                return Ok((header, size));
            }
            if self.filled > 0 && self.message_deadline.is_none() {
                self.message_deadline = Some(Deadline::after(self.limits.message_deadline));
            }
            match header {
                Some((_, size)) => self.read_body(size, wait)?,
                None => self.read_first(wait)?,
            }
        }
    }

    fn drop_consumed(&mut self) {
        if self.consumed == 0 {
            return;
        }
        // Never taken: they close.
        self.fds.clear();
        self.fds_on_body = false;
        if self.consumed == self.filled && self.next_fds.is_none() {
            self.filled = 0;
            self.consumed = 0;
            return;
        }
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled = self.filled.saturating_sub(self.consumed);
        if let Some((at, fds)) = self.next_fds.take() {
            match at.saturating_sub(self.consumed) {
                0 => self.fds = fds,
                later => self.next_fds = Some((later, fds)),
            }
        }
        self.consumed = 0;
    }

    /// The header that starts at `start` and the end of its message; `None` while it is not there whole.
    fn header_at(&self, start: usize) -> Option<Result<(Header, usize), HeaderError>> {
        let bytes = self.buffer.get(start..self.filled)?.first_chunk()?;
        Some(
            Header::parse(bytes, self.limits.max_message_bytes).map(|header| {
                let end = start
                    .saturating_add(HEADER_BYTES)
                    .saturating_add(header.body_bytes());
                (header, end)
            }),
        )
    }

    /// Reads what a message starts with, and possibly some of the next.
    fn read_first(&mut self, wait: Wait) -> Result<(), RecvError> {
        let already = self.filled;
        let end = self.limits.first_read_bytes.max(HEADER_BYTES);
        let fds = self.read(end, wait)?;
        if fds.is_empty() {
            return Ok(());
        }
        self.assign(fds, already)
    }

    /// Gives new descriptors to the message they belong to; the bytes from `first_new` on came with them.
    fn assign(&mut self, fds: Vec<ReceivedFd>, first_new: usize) -> Result<(), RecvError> {
        let mut owner = None;
        let mut start = 0;
        while start < self.filled {
            let header = self.header_at(start);
            if start >= first_new {
                owner = Some(start);
            }
            let Some(Ok((header, end))) = header else {
                break;
            };
            let next_starts_too = end < self.filled;
            let could_own = header.may_have_fds();
            if owner.is_some() && next_starts_too && could_own {
                return Err(RecvError::FdsAmbiguous);
            }
            start = end;
        }
        match owner {
            Some(0) => self.fds = fds,
            Some(at) if self.next_fds.is_none() => self.next_fds = Some((at, fds)),
            Some(_) => return Err(RecvError::FdsAmbiguous),
            None => self.fds_on_body = true,
        }
        Ok(())
    }

    /// Reads the rest of a message of `size` bytes.
    fn read_body(&mut self, size: usize, wait: Wait) -> Result<(), RecvError> {
        self.fds_on_body |= !self.read(size, wait)?.is_empty();
        Ok(())
    }

    /// One read that brings at least a byte, up to place `end` of the buffer, and the descriptors that came with it.
    fn read(&mut self, end: usize, wait: Wait) -> Result<Vec<ReceivedFd>, RecvError> {
        // More of them would stay open, too.
        if self.socket.line().is_late() {
            return Err(RecvError::FdsHeld);
        }
        loop {
            let (blocking, then_wait) = self.plan(wait)?;
            // There is always room for descriptors: the kernel closes those for which there is none, in this thread.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let room = self.buffer.get_mut(self.filled..end).unwrap_or_default();
            let mut slices = [IoSliceMut::new(room)];
            let flags = blocking | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut slices, &mut control, flags) {
                Ok(message) => {
                    let (bytes, flags) = (message.bytes, message.flags);
                    let line = self.socket.line();
                    let fds: Vec<_> = received(&mut control)
                        .map(|fd| ReceivedFd::new(fd, line))
                        .collect();
                    if bytes == 0 {
                        return Err(self.end_of_stream());
                    }
                    self.filled = self.filled.saturating_add(bytes);
                    self.judge_fds(&fds, flags)?;
                    return Ok(fds);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match then_wait {
                    None if wait == Wait::Now => return Err(self.not_yet()),
                    // The socket's own timeout: look at the deadline again.
                    None => {}
                    // Whether it became readable or the deadline passed shows in the next round.
                    Some(deadline) => {
                        self.socket
                            .wait(PollFlags::IN, deadline)
                            .map_err(RecvError::Io)?;
                    }
                },
                Err(Errno::CONNRESET) => return Err(self.end_of_stream()),
                Err(error) => return Err(RecvError::Io(error)),
            }
        }
    }

    /// May the connection go on with these descriptors?
    fn judge_fds(&self, fds: &[ReceivedFd], flags: ReturnFlags) -> Result<(), RecvError> {
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(RecvError::FdsLost);
        }
        if !fds.is_empty() && is_full() {
            return Err(RecvError::FdsHeld);
        }
        Ok(())
    }

    /// How the next read waits: inside `recvmsg`, or behind it until a deadline.
    fn plan(&self, wait: Wait) -> Result<(RecvFlags, Option<Deadline>), RecvError> {
        let deadline = match (wait, self.message_deadline) {
            (Wait::Now, _) => return Ok((RecvFlags::DONTWAIT, None)),
            (Wait::Forever, None) | (Wait::Watched, _) => return Ok((RecvFlags::empty(), None)),
            (Wait::Forever, Some(message)) => message,
            (Wait::Until(deadline), None) => deadline,
            (Wait::Until(deadline), Some(message)) => deadline.min(message),
        };
        let left = deadline.remaining().ok_or_else(|| self.too_late())?;
        match self.limits.blocks_for {
            Some(slice) if slice <= left => Ok((RecvFlags::empty(), None)),
            Some(_) | None => Ok((RecvFlags::DONTWAIT, Some(deadline))),
        }
    }

    fn too_late(&self) -> RecvError {
        match self.filled {
            0 => RecvError::Deadline,
            received => RecvError::Stalled { received },
        }
    }

    fn not_yet(&self) -> RecvError {
        match self.message_deadline {
            Some(deadline) if deadline.remaining().is_none() => self.too_late(),
            Some(_) | None => RecvError::NotYet,
        }
    }

    fn end_of_stream(&self) -> RecvError {
        match self.filled {
            0 => RecvError::Closed,
            received => RecvError::Truncated { received },
        }
    }
}
