//! The layers of a sandbox, each by itself, as `sandbox::enter` puts them on top of each other.

use std::fmt;
use std::fs::File;

use anyhow::{Context, Result, bail};
use sandbox::enter;
use sandbox::mechanisms::seccomp::Filter;
use sandbox::mechanisms::{capabilities, identity, landlock, namespaces, rlimits, root};
use sandbox::profile::{Mode, Start};
use sandbox::roles::supervisor;

use crate::control_group;
use crate::role::{Confinement, Role};

/// What stops an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// The system call filter of the role.
    Filter,
    /// No right to any file.
    Landlock,
    /// An empty, read-only root in a mount namespace of its own.
    Root,
    /// A network namespace of its own.
    Net,
    /// An IPC namespace of its own.
    Ipc,
    /// A pid namespace of its own, made by the parent.
    Pid,
    /// A user of its own.
    User,
    /// No capabilities; of the supervisor: nine.
    Capabilities,
    /// Resource limits.
    Limits,
    /// A control group, where the operator gives one.
    Cgroup,
    /// The supervisor at the other end of the control socket: its policy, and what it takes how often.
    Supervisor,
}

impl Layer {
    /// All of them.
    pub(crate) const ALL: [Layer; 11] = [
        Layer::Filter,
        Layer::Landlock,
        Layer::Root,
        Layer::Net,
        Layer::Ipc,
        Layer::Pid,
        Layer::User,
        Layer::Capabilities,
        Layer::Limits,
        Layer::Cgroup,
        Layer::Supervisor,
    ];

    /// The layer of a name.
    pub(crate) fn named(name: &str) -> Option<Layer> {
        Layer::ALL
            .into_iter()
            .find(|layer| layer.to_string() == name)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Filter => "filter",
            Layer::Landlock => "landlock",
            Layer::Root => "root",
            Layer::Net => "net",
            Layer::Ipc => "ipc",
            Layer::Pid => "pid",
            Layer::User => "user",
            Layer::Capabilities => "capabilities",
            Layer::Limits => "limits",
            Layer::Cgroup => "cgroup",
            Layer::Supervisor => "supervisor",
        })
    }
}

/// Puts this process into the role's whole sandbox, the way that the real process enters it.
pub(crate) fn enter_all(role: Role, confinement: &Confinement) -> Result<()> {
    if role == Role::Supervisor {
        enter::give_up_what_no_child_needs(Mode::On)?;
        return Ok(());
    }
    let start = Start {
        mode: Mode::On,
        uid: None,
        alone: true,
    };
    let entered = enter::leave_host(&confinement.power, start)?;
    entered.close(&confinement.calls)?;
    Ok(())
}

/// Why this machine cannot give a layer, or None.
pub(crate) fn why_not(layer: Layer) -> Option<&'static str> {
    if layer == Layer::Supervisor && File::open("/dev/kvm").is_err() {
        return Some("/dev/kvm cannot be opened");
    }
    control_group::why_not().filter(|_| layer == Layer::Cgroup)
}

/// Puts this process behind one layer. The pid namespace is there already.
pub(crate) fn enter_one(role: Role, layer: Layer, confinement: &Confinement) -> Result<()> {
    match layer {
        Layer::Filter if role == Role::Supervisor => {
            Filter::refusing(&supervisor::refused())?.apply_to_process()?;
        }
        Layer::Filter => {
            let calls = &confinement.calls;
            Filter::new(&calls.rules, &calls.refused)?.apply_to_process()?;
        }
        Layer::Landlock => {
            landlock::apply(&confinement.power.folders)?;
        }
        Layer::Root => {
            leave("mount namespace")?;
            root::empty()?;
        }
        Layer::Net => leave("net namespace")?,
        Layer::Ipc => leave("ipc namespace")?,
        // Not of this process: its parent made the one, and the other is at the other end of a socket.
        Layer::Pid | Layer::Supervisor => {}
        Layer::Cgroup => control_group::join()?,
        Layer::User => {
            identity::become_uid(identity::own_uid()?)?;
        }
        Layer::Capabilities if role == Role::Supervisor => {
            let kept = supervisor::capabilities();
            capabilities::keep(kept.iter().map(|kept| kept.capability).collect())?;
        }
        Layer::Capabilities => {
            capabilities::drop_bounding()?;
            capabilities::drop_all()?;
            capabilities::no_new_privileges()?;
        }
        Layer::Limits => {
            rlimits::apply(&confinement.power.limits)?;
        }
    }
    Ok(())
}

fn leave(name: &str) -> Result<()> {
    let kind = namespaces::KINDS.iter().find(|kind| kind.name == name);
    let Some(kind) = kind else {
        bail!("the sandbox has no {name}");
    };
    kind.leave().context("leave a namespace")?;
    Ok(())
}
