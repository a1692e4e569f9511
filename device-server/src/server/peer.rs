//! Who may be a client: a process of the same user, of root, or of a user or group that the operator named.
//!
//! The kernel tells (SO_PEERCRED) who connected. It is asked before the first byte is read; the mode of the socket file
//! keeps others out already, but a socket may be bound by somebody else. What it tells is compared with numbers that were
//! taken before the sandbox is entered, because there this process may get another user, and a user namespace of
//! its own. That one knows this user alone: all others, root too, look like the overflow user, who is never served.
//! Limits: a client's group is the one it had as its main group when it connected.

use std::os::fd::BorrowedFd;

use rustix::net::UCred;
use rustix::process::geteuid;
use telemetry::security::Event;

/// What the kernel shows for a user or group that a namespace does not know. Source: its default for both.
const OVERFLOW_ID: u32 = 65534;

/// The users and groups that are served.
#[derive(Debug, Clone)]
pub struct Clients {
    uids: Vec<u32>,
    gids: Vec<u32>,
    unknown: [u32; 2],
}

impl Clients {
    /// The user of this process, root, and those that are named. Ask before the sandbox is entered.
    pub fn new(uids: &[u32], gids: &[u32]) -> Clients {
        let overflow = |name| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
            text.and_then(|text| text.trim().parse().ok())
                .unwrap_or(OVERFLOW_ID)
        };
        let own = [geteuid().as_raw(), 0];
        Clients::with_unknown(
            &own,
            uids,
            gids,
            ["overflowuid", "overflowgid"].map(overflow),
        )
    }

    fn with_unknown(own: &[u32], uids: &[u32], gids: &[u32], unknown: [u32; 2]) -> Clients {
        Clients {
            uids: [own, uids].concat(),
            gids: gids.to_vec(),
            unknown,
        }
    }

    /// Whether this process's own user cannot be served, because it looks like everybody.
    pub fn exclude_own_user(&self) -> bool {
        geteuid().as_raw() == self.unknown[0]
    }

    /// Whether the process that connected to `device`, an id and a PCI address, may be served. A refusal is logged.
    pub(super) fn admit(&self, stream: BorrowedFd<'_>, device: (&str, &str)) -> bool {
        const WHO: &str =
            "this server's user, root, and whom --allow-uid and --allow-gid name may be clients";
        let (subject, detail) = match rustix::net::sockopt::socket_peercred(stream) {
            Ok(UCred { uid, gid, .. }) if self.include(uid.as_raw(), gid.as_raw()) => return true,
            Ok(UCred { pid, uid, gid }) => {
                let pid = pid.as_raw_nonzero();
                (
                    format!("uid {uid}, gid {gid}, process {pid}"),
                    WHO.to_owned(),
                )
            }
            Err(errno) => ("unknown user".to_owned(), errno.to_string()),
        };
        Event::ClientRefused.report(Some(device), &subject, &detail, "Client refused");
        false
    }

    fn include(&self, uid: u32, gid: u32) -> bool {
        let [unknown_uid, unknown_gid] = self.unknown;
        uid != unknown_uid && self.uids.contains(&uid)
            || gid != unknown_gid && self.gids.contains(&gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 0;
    const OWN: u32 = 1000;
    const OTHER: u32 = 1001;
    const UNKNOWN: [u32; 2] = [OVERFLOW_ID; 2];

    #[test]
    fn v43_only_the_same_user_and_root_may_connect() {
        let clients = Clients::with_unknown(&[OWN, ROOT], &[], &[], UNKNOWN);
        assert!(clients.include(OWN, 5) && clients.include(ROOT, 5));
        assert!(!clients.include(OTHER, 5) && !clients.include(OTHER, ROOT));
    }

    #[test]
    fn user_and_group_that_are_named_may_connect() {
        let clients = Clients::with_unknown(&[OWN, ROOT], &[OTHER], &[77], UNKNOWN);
        assert!(clients.include(OTHER, 5) && clients.include(2000, 77));
        assert!(!clients.include(2000, 5) && !clients.include(77, OTHER));
    }

    #[test]
    fn user_that_looks_like_everybody_may_not_connect() {
        let [nobody, nogroup] = UNKNOWN;
        let clients = Clients::with_unknown(&[nobody, ROOT], &[nobody], &[nogroup], UNKNOWN);
        assert!(!clients.include(nobody, nogroup));
        assert!(clients.include(ROOT, nogroup));
    }

    #[test]
    fn own_user_is_asked_for_when_the_list_is_made() {
        let clients = Clients::new(&[], &[]);
        assert_eq!(
            clients.include(geteuid().as_raw(), OTHER),
            !clients.exclude_own_user()
        );
    }
}
