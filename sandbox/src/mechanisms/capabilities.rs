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

/// Empties the bounding set: what exec could give back. Needs privilege, so it comes before the user changes.
pub fn drop_bounding() -> Result<(), MechanismError> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => {
                return Err(MechanismError::new(
                    "empty the capability bounding set",
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

/// exec gives nothing from now on; other processes of the same user cannot look into this one.
pub fn no_new_privileges() -> Result<String, MechanismError> {
    rustix::thread::set_no_new_privs(true).map_err(MechanismError::at("forbid new privileges"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(MechanismError::at("forbid dumps"))?;
    Ok("no new ones, not dumpable".to_owned())
}
