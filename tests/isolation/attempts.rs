//! What an attacker tries: one row each, with the layers of which each stops it alone.
//!
//! A row that needs something of the kernel says so; any other must succeed where no layer is on, or it would prove nothing.

mod files;
mod network;
mod processes;
mod kernel;
mod memory;
mod descriptors;
mod requests;

use std::io;

use crate::layers::Layer;
use crate::role::{Held, Role};
use crate::victim::Target;

/// What an attempt works on.
#[derive(Debug)]
pub(crate) struct Scene {
    /// What the process has open.
    pub held: Held,
    /// Who is attacked.
    pub target: Target,
}

/// One row. `Err` of its call is the kernel's refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// What is tried.
    pub name: &'static str,
    /// Tries it.
    pub call: fn(&Scene) -> io::Result<()>,
    /// Layers of a VMM or a device server.
    confined: &'static [Layer],
    /// Layers of the supervisor; none: it may, or it is not its matter.
    supervisor: &'static [Layer],
    /// Only these roles try it.
    only: Option<&'static [Role]>,
    /// What the kernel needs to have for it.
    pub needs: Option<&'static str>,
}

impl Attempt {
    const fn new(
        name: &'static str,
        call: fn(&Scene) -> io::Result<()>,
        confined: &'static [Layer],
    ) -> Attempt {
        Attempt {
            name,
            call,
            confined,
            supervisor: &[],
            only: None,
            needs: None,
        }
    }

    /// The supervisor is stopped too, by these.
    const fn supervisor(mut self, layers: &'static [Layer]) -> Attempt {
        self.supervisor = layers;
        self
    }

    const fn only(mut self, roles: &'static [Role]) -> Attempt {
        self.only = Some(roles);
        self
    }

    const fn needs(mut self, what: &'static str) -> Attempt {
        self.needs = Some(what);
        self
    }

    /// The layers of which each stops it alone, in this role; none: not tried in it.
    pub(crate) fn stopped_by(&self, role: Role) -> &'static [Layer] {
        match (role, self.only) {
            (Role::Supervisor, _) => self.supervisor,
            (Role::Vmm(_), Some(roles)) => {
                // Of the VMM's other threads, what holds for the one that runs the guest.
                let listed = |role: &Role| roles.contains(role);
                let stands_for = if listed(&role) { role } else { VCPU };
                let shown = Role::ALL.contains(&role);
                let tried = listed(&role) || (!shown && listed(&stands_for));
                if tried { self.confined } else { &[] }
            }
            (_, Some(roles)) if !roles.contains(&role) => &[],
            _ => self.confined,
        }
    }
}

/// The thread of the VMM that runs the guest.
pub(crate) const VCPU: Role = Role::Vmm(sandbox::roles::vmm::Thread::Vcpu);
/// The one that attaches devices.
pub(crate) const ATTACH: Role = Role::Vmm(sandbox::roles::vmm::Thread::Attach);

/// All rows, by subject.
pub(crate) fn all() -> Vec<(&'static str, &'static [Attempt])> {
    vec![
        ("Files", files::ATTEMPTS),
        ("Networks", network::ATTEMPTS),
        ("Other processes", processes::ATTEMPTS),
        ("The kernel", kernel::ATTEMPTS),
        ("Memory and limits", memory::ATTEMPTS),
        ("Descriptors", descriptors::ATTEMPTS),
        ("Requests to the supervisor", requests::ATTEMPTS),
    ]
}

/// A result that shows that the kernel would have done it: one of these errors is about the arguments, behind the check of rights.
fn reached<T>(result: io::Result<T>, about_arguments: &[i32]) -> io::Result<()> {
    match result {
        Err(error)
            if !error
                .raw_os_error()
                .is_some_and(|errno| about_arguments.contains(&errno)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
