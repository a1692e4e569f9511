//! The writing side: one `sendmsg` for a whole message, or one `send` for a short one, which costs the kernel less.
//!
//! What the socket does not take at once follows as soon as it has room, without the descriptors, until the deadline.
//! A message that was cut short leaves the stream useless: after an error nothing may be sent any more.

use super::deadline::Deadline;
use super::socket::StreamSocket;
use crate::header::{CommandCode, Header, HeaderFlags};
use crate::ids::MessageId;
use crate::limits::{HEADER_BYTES, KERNEL_MAX_FDS};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Messages of at most this many bytes are put together before they are sent: an access of a register.
const SHORT_BYTES: usize = 64;

/// No signal when the peer is gone, and no waiting inside the kernel, which knows no deadline.
const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// A message to be sent. Its size is counted by the sender.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Chosen for a request, echoed in a reply.
    pub id: MessageId,
    /// What is asked or answered.
    pub command: CommandCode,
    /// Type, No_reply, Error.
    pub flags: HeaderFlags,
    /// Error number of an error reply, otherwise 0.
    pub error: u32,
    /// The fixed part of the body.
    pub head: &'a [u8],
    /// Bulk data behind it.
    pub data: &'a [u8],
    /// Descriptors beside it.
    pub fds: &'a [BorrowedFd<'a>],
}

/// How long the peer may keep a message from being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: a full socket is an error at once. So is one that another thread finds full at that moment.
    None,
    /// Until then.
    Until(Deadline),
    /// This long, from when the socket is first found full: costs no look at the clock before that.
    For(Duration),
}

/// A message was not sent, or not whole. The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The message would not fit its size field.
    #[error("the message has more than 4 GiB or more than {KERNEL_MAX_FDS} file descriptors")]
    TooLarge,
    /// The peer did not read in time.
    #[error("the peer did not take the message before the deadline")]
    Deadline,
    /// The peer has closed.
    #[error("the peer closed the connection")]
    Closed,
    /// The kernel refused.
    #[error("sendmsg failed")]
    Io(#[source] Errno),
}

/// Sends whole messages, one at a time.
#[derive(Debug)]
pub struct FrameSender {
    socket: StreamSocket,
    turn: Mutex<()>,
    /// Whoever has the turn waits for room in the socket.
    full: AtomicBool,
}

impl FrameSender {
    /// Sends on `socket`.
    #[must_use]
    pub fn new(socket: StreamSocket) -> Self {
        Self {
            socket,
            turn: Mutex::new(()),
            full: AtomicBool::new(false),
        }
    }

    /// Sends a message whole.
    ///
    /// # Errors
    /// It was not sent, or not whole; the connection must end.
    pub fn send(&self, message: &Outgoing<'_>, patience: Patience) -> Result<(), SendError> {
        self.send_and_tell(message, patience, &mut || ())
    }

    /// The same; `before_waiting` is called each time the socket is found full, or another thread sends.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_and_tell(
        &self,
        message: &Outgoing<'_>,
        patience: Patience,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), SendError> {
        let size = HEADER_BYTES
            .saturating_add(message.head.len())
            .saturating_add(message.data.len());
        let header = Header {
            id: message.id,
            command: message.command,
            size: u32::try_from(size).map_err(|_| SendError::TooLarge)?,
            flags: message.flags,
            error: message.error,
        }
        .to_bytes();
        let _turn = self.take_turn(patience, before_waiting)?;
        let mut sent = 0;
        if size <= SHORT_BYTES && message.fds.is_empty() {
            sent = self.send_short(&header, message)?;
            if sent == size {
                return Ok(());
            }
        }
        let mut until = None;
        self.send_rest(&header, message, sent, || {
            let deadline = match patience {
                Patience::None => return Err(SendError::Deadline),
                Patience::Until(deadline) => deadline,
                Patience::For(time) => *until.get_or_insert_with(|| Deadline::after(time)),
            };
            before_waiting();
            self.wait_for_room(deadline)
        })
    }

    fn wait_for_room(&self, deadline: Deadline) -> Result<(), SendError> {
        self.full.store(true, Ordering::Relaxed);
        let ready = self.socket.wait(PollFlags::OUT, deadline);
        self.full.store(false, Ordering::Relaxed);
        if ready.map_err(SendError::Io)? {
            return Ok(());
        }
        Err(SendError::Deadline)
    }

    /// Messages must not mix.
    fn take_turn(
        &self,
        patience: Patience,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<MutexGuard<'_, ()>, SendError> {
        loop {
            match self.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if patience != Patience::None => {
                    before_waiting();
                    return Ok(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
                }
                Err(TryLockError::WouldBlock) if self.full.load(Ordering::Relaxed) => {
                    return Err(SendError::Deadline);
                }
                // The other thread is inside a send that does not wait.
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }

    /// Sends a short message from one buffer; returns how many bytes the socket took.
    fn send_short(
        &self,
        header: &[u8; HEADER_BYTES],
        message: &Outgoing<'_>,
    ) -> Result<usize, SendError> {
        let mut buffer = [0; SHORT_BYTES];
        let mut filled = 0usize;
        for part in [header, message.head, message.data] {
            let end = filled.saturating_add(part.len());
            let room = buffer.get_mut(filled..end).ok_or(SendError::TooLarge)?;
            room.copy_from_slice(part);
            filled = end;
        }
        match send(
            &self.socket,
            buffer.get(..filled).unwrap_or_default(),
            FLAGS,
        ) {
            Ok(sent) => Ok(sent),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sends what is behind the first `sent` bytes, with the descriptors beside its first.
    fn send_rest(
        &self,
        header: &[u8; HEADER_BYTES],
        message: &Outgoing<'_>,
        sent: usize,
        mut wait: impl FnMut() -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let mut slices = [
            IoSlice::new(header),
            IoSlice::new(message.head),
            IoSlice::new(message.data),
        ];
        let mut slices = slices.as_mut_slice();
        IoSlice::advance_slices(&mut slices, sent);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !message.fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(message.fds)) {
            return Err(SendError::TooLarge);
        }
        loop {
            match sendmsg(&self.socket, slices, &mut control, FLAGS) {
                Ok(sent) => {
                    control.clear();
                    IoSlice::advance_slices(&mut slices, sent);
                    if slices.iter().all(|slice| slice.is_empty()) {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait()?,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn failed(error: Errno) -> SendError {
    match error {
        Errno::PIPE | Errno::CONNRESET => SendError::Closed,
        other => SendError::Io(other),
    }
}
