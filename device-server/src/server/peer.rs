//! Who may be a client: a process of the same user, or root.
//!
//! The kernel tells (SO_PEERCRED) which user connected. It is asked before the first byte is read; the mode of the
//! socket file keeps others out already, but a socket may be bound by somebody else.

use std::os::fd::BorrowedFd;

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
    let ours = rustix::process::geteuid();
    if credentials.uid == ours || credentials.uid.is_root() {
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
