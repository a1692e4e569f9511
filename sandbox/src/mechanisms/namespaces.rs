//! Namespaces of its own: no network, no IPC, no host name, no mounts, no view of cgroups.
//!
//! With privilege they are made directly; without, in a user namespace of its own. A pid namespace needs a new process
//! and is the parent's to give (see `prepare`).

use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use super::MechanismError;

/// A kind of namespace that a process can leave.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// For messages.
    pub name: &'static str,
    flag: CloneFlags,
}

/// All of them, but for users and processes. Each is left by itself: where one kind is missing, the others are not.
pub const KINDS: [Kind; 5] = [
    Kind {
        name: "mount namespace",
        flag: CloneFlags::CLONE_NEWNS,
    },
    Kind {
        name: "net namespace",
        flag: CloneFlags::CLONE_NEWNET,
    },
    Kind {
        name: "ipc namespace",
        flag: CloneFlags::CLONE_NEWIPC,
    },
    Kind {
        name: "uts namespace",
        flag: CloneFlags::CLONE_NEWUTS,
    },
    Kind {
        name: "cgroup namespace",
        flag: CloneFlags::CLONE_NEWCGROUP,
    },
];

impl Kind {
    /// Whether the root directory can be changed in it.
    pub fn holds_mounts(self) -> bool {
        self.flag == CloneFlags::CLONE_NEWNS
    }

    /// Leaves the host's.
    pub fn leave(self) -> Result<String, MechanismError> {
        let step =
            "leave the host's (CONFIG_NAMESPACES and its kinds, and privilege or a user namespace)";
        unshare(self.flag).map_err(MechanismError::at(step))?;
        Ok("own".to_owned())
    }
}

/// Leaves the host's user namespace, which makes the others possible for a user without privilege.
pub fn leave_user() -> Result<String, MechanismError> {
    let (uid, gid) = (getuid(), getgid());
    let step =
        "leave the host's (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)";
    unshare(CloneFlags::CLONE_NEWUSER).map_err(MechanismError::at(step))?;
    // This user keeps its number, so that others can be told from it; nobody else has one here.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    for (path, text) in maps {
        std::fs::write(path, text)
            .map_err(MechanismError::at("map this user into its namespace"))?;
    }
    Ok(format!("own, of uid {uid}"))
}

/// Whether the parent gave this process a pid namespace of its own.
pub fn alone() -> Result<String, MechanismError> {
    if rustix::process::getpid().is_init() {
        return Ok("own".to_owned());
    }
    Err(MechanismError::new(
        "be alone in one",
        io::Error::other("this process was started in the host's"),
    ))
}
