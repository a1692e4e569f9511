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
        let size = HEADER_BYTES
            .checked_add(message.head.len())
            .and_then(|size| size.checked_add(message.data.len()))
            .and_then(|size| u32::try_from(size).ok())
            .ok_or(SendError::TooLarge)?;
        let header = Header {
            id: message.id,
            command: message.command,
            size,
            flags: message.flags,
            error: message.error,
        }
        .to_bytes();
        let mut slices = [
            IoSlice::new(&header),
            IoSlice::new(message.head),
            IoSlice::new(message.data),
        ];
        let mut slices = slices.as_mut_slice();
        let _turn = self.take_turn(patience)?;
        if message.fds.is_empty() {
            if self.send_short(&mut slices)? {
                return Ok(());
            }
            let mut control = SendAncillaryBuffer::new(&mut []);
            return self.send_slices(slices, &mut control, patience);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(message.fds)) {
            return Err(SendError::TooLarge);
        }
        self.send_slices(slices, &mut control, patience)
    }

    /// Messages must not mix.
    fn take_turn(&self, patience: Patience) -> Result<MutexGuard<'_, ()>, SendError> {
        if patience != Patience::None {
            return Ok(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
        loop {
            match self.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if self.full.load(Ordering::Relaxed) => {
                    return Err(SendError::Deadline);
                }
                // The other thread is inside a send that does not wait.
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }

    /// Sends a short message from one buffer. False when it is longer, or the socket did not take all of it; `slices`
    /// then is what is left.
    fn send_short(&self, slices: &mut &mut [IoSlice<'_>]) -> Result<bool, SendError> {
        let mut buffer = [0; SHORT_BYTES];
        let mut room = buffer.as_mut_slice();
        for slice in slices.iter() {
            let Some((part, rest)) = room.split_at_mut_checked(slice.len()) else {
                return Ok(false);
            };
            part.copy_from_slice(slice);
            room = rest;
        }
        let bytes = SHORT_BYTES.saturating_sub(room.len());
        let whole = buffer.get(..bytes).unwrap_or_default();
        match send(&self.socket, whole, FLAGS) {
            Ok(sent) => {
                IoSlice::advance_slices(slices, sent);
                Ok(sent == bytes)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    fn send_slices(
        &self,
        mut slices: &mut [IoSlice<'_>],
        control: &mut SendAncillaryBuffer<'_, '_, '_>,
        mut patience: Patience,
    ) -> Result<(), SendError> {
        loop {
            match sendmsg(&self.socket, slices, control, FLAGS) {
                Ok(sent) => {
                    control.clear();
                    IoSlice::advance_slices(&mut slices, sent);
                    if slices.iter().all(|slice| slice.is_empty()) {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let deadline = match patience {
                        Patience::None => return Err(SendError::Deadline),
                        Patience::Until(deadline) => deadline,
                        Patience::For(time) => Deadline::after(time),
                    };
                    patience = Patience::Until(deadline);
                    self.full.store(true, Ordering::Relaxed);
                    let ready = self.socket.wait(PollFlags::OUT, deadline);
                    self.full.store(false, Ordering::Relaxed);
                    if !ready.map_err(SendError::Io)? {
                        return Err(SendError::Deadline);
                    }
                }
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
