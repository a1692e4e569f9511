//! One packet at a time over the control socket, with its file descriptors.
//!
//! Never blocks: wait for the socket to be readable first. Neither side is trusted: packets and descriptor counts that
//! are too large are errors, and a peer that does not read is one too.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::MAX_CONTROL_BYTES;
use super::order::MAX_ORDER_FDS;
use crate::limits::KERNEL_MAX_FDS;
use crate::received_fd::{ReceivedFd, received};

/// One end of the control socket.
#[derive(Debug)]
pub struct ControlSocket(OwnedFd);

/// What a receive found.
#[derive(Debug)]
pub enum Received {
    /// A packet and the descriptor that came with it, if any.
    Packet(Vec<u8>, Option<OwnedFd>),
    /// Nothing yet.
    Empty,
    /// The peer is gone.
    Closed,
}

/// The same, with all descriptors.
pub(super) enum Packet {
    Whole(Vec<u8>, Vec<OwnedFd>),
    Empty,
    Closed,
}

/// Why the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A system call failed.
    #[error("{action} on the control socket")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// A packet larger than the limit, or more descriptors than it may have.
    #[error(
        "a control message is larger than {MAX_CONTROL_BYTES} bytes or carries more descriptors than it may"
    )]
    TooLarge,
    /// The peer does not read what it is sent.
    #[error("the other side does not read its control messages")]
    Full,
}

impl ControlSocket {
    /// A connected pair.
    pub fn pair() -> Result<(ControlSocket, OwnedFd), ControlError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|source| ControlError::Socket {
            action: "make the pair",
            source,
        })?;
        Ok((ControlSocket(ours), theirs))
    }

    /// Sends one packet with at most one descriptor.
    pub fn send(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        self.send_with(packet, fd.as_slice())
    }

    /// Sends one packet with at most `MAX_ORDER_FDS` descriptors.
    pub(super) fn send_with(
        &self,
        packet: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        if packet.len() > MAX_CONTROL_BYTES {
            return Err(ControlError::TooLarge);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ORDER_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ControlError::TooLarge);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN) => Err(ControlError::Full),
            Err(source) => Err(ControlError::Socket {
                action: "send",
                source,
            }),
        }
    }

    /// Receives one packet. With `take_fd` false a packet with a descriptor is an error, and it is closed.
    pub fn receive(&self, take_fd: bool) -> Result<Received, ControlError> {
        Ok(match self.receive_up_to(usize::from(take_fd))? {
            Packet::Whole(packet, fds) => Received::Packet(packet, fds.into_iter().next()),
            Packet::Empty => Received::Empty,
            Packet::Closed => Received::Closed,
        })
    }

    /// Receives one packet with at most `MAX_ORDER_FDS` descriptors.
    pub(super) fn receive_all(&self) -> Result<Packet, ControlError> {
        self.receive_up_to(MAX_ORDER_FDS)
    }

    fn receive_up_to(&self, max_fds: usize) -> Result<Packet, ControlError> {
        // There is room for all, so that the kernel closes none in this thread.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut packet = vec![0; MAX_CONTROL_BYTES];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = match rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut packet)],
            &mut control,
            flags,
        ) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Packet::Empty),
            Err(Errno::CONNRESET) => return Ok(Packet::Closed),
            Err(source) => {
                return Err(ControlError::Socket {
                    action: "receive",
                    source,
                });
            }
        };
        let fds: Vec<OwnedFd> = received(&mut control).collect();
        if message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
            || fds.len() > max_fds
        {
            drop(ReceivedFd::all(fds));
            return Err(ControlError::TooLarge);
        }
        if message.bytes == 0 {
            return Ok(Packet::Closed);
        }
        packet.truncate(message.bytes);
        Ok(Packet::Whole(packet, fds))
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for ControlSocket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
