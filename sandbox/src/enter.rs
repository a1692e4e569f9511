//! The child's side: gives up power, in an order that works, and fails closed.
//!
//! Two steps, because threads are needed and starting them is forbidden afterwards: `leave_host` while there is one
//! thread, before any peer's byte is read; then the threads are started and held back; `close` filters system calls
//! for all of them, or each is filtered with the table of its kind, and they go.

use rustix::thread::CapabilitySet;

use crate::mechanisms::seccomp::Filter;
use crate::mechanisms::{
    MechanismError, capabilities, identity, inherited, landlock, namespaces, rlimits, root,
};
use crate::profile::{Enforced, Mode, Start};
use crate::roles::{Calls, Power, supervisor};

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
    role: &'static str,
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
///
/// A process that a service manager has confined has 2 to 5 behind it: they are looked at instead.
pub fn leave_host(power: &Power, start: Start) -> Result<Sandbox, EnterError> {
    let mut sandbox = Sandbox {
        role: power.role,
        mode: start.mode,
        enforced: Enforced::default(),
    };
    if start.mode == Mode::Off {
        return Ok(sandbox);
    }
    // 1.
    sandbox.note("limits", rlimits::apply(&power.limits))?;
    // 2. to 5.
    if start.mode == Mode::Inherited {
        for (mechanism, found) in inherited::find() {
            sandbox.note(mechanism, found)?;
        }
    } else {
        sandbox.leave_namespaces(power, start)?;
    }
    // 6.
    sandbox.note("capabilities", capabilities::drop_all())?;
    sandbox.note("privileges", capabilities::no_new_privileges())?;
    // 7.
    sandbox.note("landlock", landlock::apply(&power.folders))?;
    Ok(sandbox)
}

/// What a parent gives up that has to start others: it stays who and where it is, with the capabilities and calls that they need.
/// While there is one thread.
pub fn give_up_what_no_child_needs(mode: Mode) -> Result<Enforced, EnterError> {
    let mut sandbox = Sandbox {
        role: "supervisor",
        mode,
        enforced: Enforced::default(),
    };
    if mode == Mode::Off {
        return Ok(sandbox.enforced);
    }
    sandbox.note("limits", rlimits::apply(&supervisor::limits()))?;
    let kept = supervisor::capabilities();
    let kept = kept
        .iter()
        .fold(CapabilitySet::empty(), |all, kept| all | kept.capability);
    sandbox.note("capabilities", capabilities::keep(kept))?;
    let privileges = capabilities::no_new_privileges_by_exec();
    sandbox.note("privileges", privileges)?;
    let filter = Filter::refusing(&supervisor::refused());
    let filtered = filter.and_then(|filter| filter.apply_to_process());
    sandbox.note("seccomp", filtered)?;
    Ok(sandbox.enforced)
}

impl Sandbox {
    /// Steps 2 to 5 of `leave_host`.
    fn leave_namespaces(&mut self, power: &Power, start: Start) -> Result<(), EnterError> {
        let privileged = capabilities::privileged();
        // 2.
        let uid = start.uid.map_or_else(identity::own_uid, Ok);
        if privileged {
            let bounding = capabilities::drop_bounding().map(|()| "empty".to_owned());
            self.note("bounding set", bounding)?;
        }
        // 3. The pid namespace is the parent's to give.
        if start.alone {
            self.note("pid namespace", namespaces::alone())?;
        }
        let mut own_mounts = false;
        if !privileged {
            self.note("user namespace", namespaces::leave_user())?;
        }
        for kind in namespaces::KINDS {
            let left = kind.leave();
            own_mounts |= kind.holds_mounts() && left.is_ok();
            self.note(kind.name, left)?;
        }
        // 4.
        if own_mounts {
            self.note("root", root::empty())?;
        }
        // 5. Without privilege it is the operator's user already, alone in its user namespace.
        if privileged && power.folders.is_empty() {
            self.note("identity", uid.and_then(identity::become_uid))?;
        }
        Ok(())
    }

    /// Filters system calls, for every thread. Nothing else can be given up after this.
    pub fn close(self, calls: &Calls) -> Result<Enforced, EnterError> {
        if !self.filters() {
            return Ok(self.enforced);
        }
        let filter = Filter::new(&calls.rules, &calls.refused);
        let filtered = filter.and_then(|filter| filter.apply_to_process());
        self.filtered(filtered)
    }

    /// The same with a filter that was made before.
    pub fn close_with(self, filter: &Filter) -> Result<Enforced, EnterError> {
        if !self.filters() {
            return Ok(self.enforced);
        }
        self.filtered(filter.apply_to_process())
    }

    /// Whether threads are to be filtered at all.
    pub fn filters(&self) -> bool {
        self.mode != Mode::Off
    }

    /// What is in force where no thread is filtered.
    pub fn unfiltered(self) -> Enforced {
        self.enforced
    }

    /// Tells how filtering thread by thread went.
    pub fn filtered(
        mut self,
        result: Result<String, MechanismError>,
    ) -> Result<Enforced, EnterError> {
        self.note("seccomp", result)?;
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
                    role: self.role,
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
