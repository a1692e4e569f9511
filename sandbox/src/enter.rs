//! The child's side: gives up power, in an order that works, and fails closed.
//!
//! Two steps, because threads are needed and starting them is forbidden afterwards: `leave_host` while there is one
//! thread, before any peer's byte is read; then the threads are started and held back; `close` filters system calls
//! for all of them, and they go.

use std::os::fd::AsFd;

use crate::mechanisms::{
    MechanismError, capabilities, identity, landlock, namespaces, rlimits, root, seccomp,
};
use crate::profile::{Enforced, Mode};
use crate::roles::Role;

/// Why the sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
#[error(
    "sandbox role {role}, {mechanism}: not possible here; start with the privilege or kernel that it needs, or with --sandbox=best-effort"
)]
pub struct EnterError {
    role: &'static str,
    mechanism: &'static str,
    #[source]
    source: MechanismError,
}

/// A sandbox that is half entered.
#[derive(Debug)]
pub struct Sandbox {
    role: Role,
    mode: Mode,
    enforced: Enforced,
}

/// Gives up everything but system calls. Numbered; the order matters:
/// 1. limits first, since raising one needs privilege;
/// 2. the id of the new user, and the bounding set, while /proc and privilege are there;
/// 3. namespaces, of which the mount namespace is what 4 needs;
/// 4. the empty root, which needs privilege in that namespace;
/// 5. the user, which gives up privilege in the host; the death signal that this loses is armed again;
/// 6. all capabilities, and whatever exec could bring back;
/// 7. Landlock, which needs 6 if this process is not privileged.
pub fn leave_host(role: Role, mode: Mode) -> Result<Sandbox, EnterError> {
    let mut sandbox = Sandbox {
        role,
        mode,
        enforced: Enforced::default(),
    };
    if mode == Mode::Off {
        return Ok(sandbox);
    }
    let privileged = capabilities::privileged();
    // 1.
    let limits = rlimits::apply(&sandbox.role.limits);
    sandbox.note("limits", limits)?;
    // 2.
    let uid = identity::own_uid();
    if privileged {
        sandbox.note(
            "bounding set",
            capabilities::drop_bounding().map(|()| "empty".to_owned()),
        )?;
    }
    // 3.
    let left = namespaces::leave(privileged);
    let own_mounts = left.is_ok();
    sandbox.note("namespaces", left)?;
    // 4.
    if own_mounts {
        sandbox.note("root", root::empty())?;
    }
    // 5. Without privilege it is the operator's user already, alone in its user namespace.
    if privileged && sandbox.role.folders.is_empty() {
        sandbox.note("identity", uid.and_then(identity::become_uid))?;
    }
    // 6.
    sandbox.note("capabilities", capabilities::drop_all())?;
    sandbox.note("privileges", capabilities::no_new_privileges())?;
    // 7.
    let folders: Vec<_> = sandbox
        .role
        .folders
        .iter()
        .map(|folder| folder.fd.as_fd())
        .collect();
    let landlock = landlock::apply(&folders);
    sandbox.note("landlock", landlock)?;
    Ok(sandbox)
}

impl Sandbox {
    /// Filters system calls, for every thread. Nothing else can be given up after this.
    pub fn close(mut self) -> Result<Enforced, EnterError> {
        if self.mode != Mode::Off {
            let seccomp = seccomp::apply(&self.role.rules, &self.role.refused);
            self.note("seccomp", seccomp)?;
        }
        Ok(self.enforced)
    }

    fn note(
        &mut self,
        mechanism: &'static str,
        result: Result<String, MechanismError>,
    ) -> Result<(), EnterError> {
        match result {
            Ok(what) => self.enforced.active.push((mechanism, what)),
            Err(source) if self.mode == Mode::BestEffort => {
                self.enforced.missing.push((mechanism, chain(&source)));
            }
            Err(source) => {
                return Err(EnterError {
                    role: self.role.name,
                    mechanism,
                    source,
                });
            }
        }
        Ok(())
    }
}

fn chain(error: &MechanismError) -> String {
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("{error}: {cause}")
}
