//! The VMM's control socket: requests in, replies out, bounded in size and rate.
//!
//! The VMM is not trusted. A packet that is no request ends the conversation: a VMM that sends one is broken or
//! compromised, and loses hot-plug but not its life. Requests beyond the rate stay in the socket, so that only
//! the VMM waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use protocol::supervisor::{ControlError, ControlSocket, MessageError, Received, Reply, Request};

use super::deadline::Budget;

/// The conversation with the VMM.
#[derive(Debug)]
pub(super) struct Control {
    socket: ControlSocket,
    budget: Budget,
}

/// Why the conversation is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlEnd {
    #[error("the VMM closed its control socket")]
    Closed,
    #[error(transparent)]
    Socket(#[from] ControlError),
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl Control {
    pub(super) fn new(socket: ControlSocket) -> Control {
        Control {
            socket,
            budget: Budget::new(Instant::now()),
        }
    }

    /// What to poll; `None` while the VMM has used up its requests.
    pub(super) fn poll_fd(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.budget
            .refilled_at(now)
            .is_none()
            .then(|| self.socket.as_fd())
    }

    /// When requests are taken again.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.budget.refilled_at(now)
    }

    /// Takes one request, if there is one and its turn has come. One with a field that cannot be is refused here.
    pub(super) fn receive(&mut self, now: Instant) -> Result<Option<Request>, ControlEnd> {
        if !self.budget.take(now) {
            return Ok(None);
        }
        let packet = match self.socket.receive(false)? {
            Received::Packet(packet, _) => packet,
            Received::Empty => return Ok(None),
            Received::Closed => return Err(ControlEnd::Closed),
        };
        match Request::decode(&packet) {
            Ok(request) => Ok(Some(request)),
            Err(error @ MessageError::Field { number, .. }) => {
                let reason = error.to_string();
                tracing::warn!(reason, "A request of the VMM was refused");
                self.reply(&Reply::refused(number, &reason), None)?;
                Ok(None)
            }
            Err(error @ MessageError::Unknown) => Err(error.into()),
        }
    }

    /// Sends a reply, and with it the socket of an attached device.
    pub(super) fn reply(&self, reply: &Reply, socket: Option<OwnedFd>) -> Result<(), ControlEnd> {
        Ok(self
            .socket
            .send(&reply.encode(), socket.as_ref().map(AsFd::as_fd))?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn conversation() -> (Control, ControlSocket) {
        let (ours, theirs) = ControlSocket::pair().unwrap();
        (Control::new(ours), ControlSocket::from(theirs))
    }

    #[test]
    fn flood_of_requests_is_taken_at_the_rate_and_not_lost() {
        let (mut control, vmm) = conversation();
        let request = Request::Release {
            number: 1,
            id: "x".to_owned(),
        };
        let sent = (0..200)
            .take_while(|_| vmm.send(&request.encode(), None).is_ok())
            .count();
        assert!(sent > 40);
        let start = Instant::now();
        let taken = (0..200)
            .map_while(|_| control.receive(start).unwrap())
            .count();
        assert_eq!(taken, 32);
        assert!(control.poll_fd(start).is_none());
        let later = start + Duration::from_secs(2);
        assert!(control.poll_fd(later).is_some());
        assert_eq!(control.receive(later).unwrap(), Some(request));
    }

    #[test]
    fn nonsense_ends_the_conversation() {
        let (mut control, vmm) = conversation();
        vmm.send(b"{\"exec\":\"/bin/sh\"}", None).unwrap();
        assert!(matches!(
            control.receive(Instant::now()),
            Err(ControlEnd::Message(_))
        ));
    }

    #[test]
    fn request_with_a_field_that_cannot_be_is_refused_and_the_conversation_goes_on() {
        let (mut control, vmm) = conversation();
        vmm.send(
            br#"{"attach":{"number":5,"id":"x","socket":"x.sock"}}"#,
            None,
        )
        .unwrap();
        assert_eq!(control.receive(Instant::now()).unwrap(), None);
        let Ok(Received::Packet(packet, None)) = vmm.receive(true) else {
            panic!("no reply")
        };
        let reply = Reply::decode(&packet).unwrap();
        assert!(
            matches!(&reply, Reply::Refused { number: 5, reason } if reason.contains("no absolute path")),
            "{reply:?}"
        );
        let request = Request::Release {
            number: 6,
            id: "x".to_owned(),
        };
        vmm.send(&request.encode(), None).unwrap();
        assert_eq!(control.receive(Instant::now()).unwrap(), Some(request));
    }

    #[test]
    fn vmm_that_does_not_read_replies_is_an_end_not_a_hang() {
        let (control, _vmm) = conversation();
        let reply = Reply::refused(1, "no");
        let end = (0..100_000).find_map(|_| control.reply(&reply, None).err());
        assert!(matches!(end, Some(ControlEnd::Socket(ControlError::Full))));
    }
}
