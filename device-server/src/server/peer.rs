//! Who may be a client: a process of the same user, or root.
//!
//! The kernel tells (SO_PEERCRED) which user connected. It is asked before the first byte is read; the mode of the
//! socket file keeps others out already, but a socket may be bound by somebody else.

use std::os::fd::BorrowedFd;

use rustix::process::Uid;

use crate::server::notices::SECURITY;

/// Whether the process that connected may be served. A refusal is logged.
pub(super) fn is_allowed(stream: BorrowedFd<'_>, device: &str) -> bool {
    let credentials = match rustix::net::sockopt::socket_peercred(stream) {
        Ok(credentials) => credentials,
        Err(errno) => {
            tracing::warn!(target: SECURITY, device, %errno, "Client refused: its user is not known");
            return false;
        }
    };
    if may_connect(credentials.uid, rustix::process::geteuid()) {
        return true;
    }
    tracing::warn!(
        target: SECURITY,
        device,
        uid = credentials.uid.as_raw(),
        pid = credentials.pid.as_raw_nonzero().get(),
        "Client refused: only the user of this process and root are served"
    );
    false
}

fn may_connect(client: Uid, ours: Uid) -> bool {
    client == ours || client.is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v43_only_the_same_user_and_root_may_connect() {
        let (root, ours, other) = (Uid::ROOT, Uid::from_raw(1000), Uid::from_raw(1001));
        assert!(may_connect(ours, ours) && may_connect(root, ours) && may_connect(root, root));
        assert!(!may_connect(other, ours) && !may_connect(ours, root));
    }
}
