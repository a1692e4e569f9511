//! No capabilities, none that exec could give back, and no new privileges.

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::MechanismError;

/// Whether this process may leave namespaces and change its user.
pub fn privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::SETPCAP;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Gives up all but these, for this process and whatever it starts: as many of them as it has stay.
pub fn keep(wanted: CapabilitySet) -> Result<String, MechanismError> {
    let held = rustix::thread::capabilities(None)
        .map_err(MechanismError::at("read the capabilities"))?
        .permitted;
    // Without this one the bounding set stays as it is: nothing of it can be had by a process that has no other, either.
    if held.contains(CapabilitySet::SETPCAP) {
        drop_from_bounding(CapabilitySet::all().difference(wanted))?;
    }
    rustix::thread::clear_ambient_capability_set()
        .map_err(MechanismError::at("clear ambient capabilities"))?;
    let kept = held.intersection(wanted);
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(MechanismError::at("give up capabilities"))?;
    Ok(match kept.iter().count() {
        0 => "none".to_owned(),
        count => format!("{count} kept"),
    })
}

/// Empties the bounding set: what exec could give back. Needs privilege, so it comes before the user changes.
pub fn drop_bounding() -> Result<(), MechanismError> {
    drop_from_bounding(CapabilitySet::all())
}

fn drop_from_bounding(dropped: CapabilitySet) -> Result<(), MechanismError> {
    for capability in dropped.iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => {
                return Err(MechanismError::new(
                    "shrink the capability bounding set",
                    errno,
                ));
            }
        }
    }
    Ok(())
}

/// Gives up all others.
pub fn drop_all() -> Result<String, MechanismError> {
    rustix::thread::clear_ambient_capability_set()
        .map_err(MechanismError::at("clear ambient capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(MechanismError::at("give up all capabilities"))?;
    Ok("none".to_owned())
}

/// exec gives nothing from now on.
pub fn no_new_privileges_by_exec() -> Result<String, MechanismError> {
    rustix::thread::set_no_new_privs(true).map_err(MechanismError::at("forbid new privileges"))?;
    Ok("no new ones".to_owned())
}

/// exec gives nothing from now on; other processes of the same user cannot look into this one.
pub fn no_new_privileges() -> Result<String, MechanismError> {
    no_new_privileges_by_exec()?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(MechanismError::at("forbid dumps"))?;
    Ok("no new ones, not dumpable".to_owned())
}
