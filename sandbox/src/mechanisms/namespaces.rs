//! Namespaces of its own: no network, no IPC, no host name, no mounts, no view of cgroups.
//!
//! With privilege they are made directly; without, in a user namespace of its own. A pid namespace needs a new process
//! and is the parent's to give (see `prepare`).

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use super::MechanismError;

/// Leaves the host's namespaces. `privileged`: this process may do so directly.
pub fn leave(privileged: bool) -> Result<String, MechanismError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let mut shown = "mount, net, ipc, uts, cgroup".to_owned();
    if !privileged {
        flags |= CloneFlags::CLONE_NEWUSER;
        shown.push_str(", user");
    }
    let (uid, gid) = (getuid(), getgid());
    unshare(flags).map_err(MechanismError::at("leave the host's namespaces"))?;
    if !privileged {
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
    }
    Ok(shown)
}
