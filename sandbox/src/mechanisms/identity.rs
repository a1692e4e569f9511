//! A user and group of its own, so that no other process may signal, trace or account with this one.
//!
//! The parent may choose it. Otherwise it is made from the process id, which is unique among running processes and needs no
//! set-up: `FIRST_UID` plus the process id as the host counts it.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use rustix::process::{parent_process_death_signal, set_parent_process_death_signal};

use super::MechanismError;

/// Process ids are below 2^22, and nothing is known to hand out user ids from here on.
pub const FIRST_UID: u32 = 0x7000_0000;

/// The id for this process. Ask while /proc is there.
pub fn own_uid() -> Result<u32, MechanismError> {
    // The link gives the number in the namespace that /proc was mounted in: the host's.
    let link = std::fs::read_link("/proc/self")
        .map_err(MechanismError::at("read the process id from /proc/self"))?;
    let pid = link
        .to_str()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or_else(std::process::id);
    Ok(FIRST_UID.saturating_add(pid))
}

/// Becomes it, for good. A death signal, which this would lose, is armed again: a parent that dies in between has
/// closed its sockets, and that is how this process notices. Call it while there is one thread only.
pub fn become_uid(uid: u32) -> Result<String, MechanismError> {
    let death = MechanismError::at("keep dying with the parent");
    let death_signal = parent_process_death_signal().map_err(&death)?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[]).map_err(MechanismError::at("give up all groups"))?;
    let step = format!("become user and group {uid} (-sandbox-uids gives other numbers)");
    setresgid(group, group, group).map_err(|errno| MechanismError::new(&step, errno))?;
    setresuid(user, user, user).map_err(|errno| MechanismError::new(&step, errno))?;
    set_parent_process_death_signal(death_signal).map_err(&death)?;
    Ok(format!("uid {uid}, gid {uid}"))
}
