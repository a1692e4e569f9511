//! Landlock: nothing of any file system, no network, no signals or sockets outside, as far as the kernel knows how.
//!
//! Only descriptors that are opened afterwards are concerned: what is held already is seccomp's to restrain.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::MechanismError;

/// The newest rights that are asked for; older kernels get what they have.
const NEWEST: ABI = ABI::V10;
/// Without this much it is not worth its name.
const OLDEST: ABI = ABI::V1;

/// Applies it. In `folders` files may be removed.
pub fn apply(folders: &[BorrowedFd<'_>]) -> Result<String, MechanismError> {
    let failed = |error: &dyn std::error::Error| {
        MechanismError::new(
            "apply Landlock (the kernel needs CONFIG_SECURITY_LANDLOCK, and landlock among lsm=)",
            io::Error::other(error.to_string()),
        )
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST))
        .map_err(|error| failed(&error))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.create())
        .map_err(|error| failed(&error))?;
    for folder in folders {
        ruleset = ruleset
            .add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))
            .map_err(|error| failed(&error))?;
    }
    let status = ruleset.restrict_self().map_err(|error| failed(&error))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            Ok(format!("ABI {}", abi(&status.landlock)))
        }
        RulesetStatus::NotEnforced => Err(failed(&io::Error::from(io::ErrorKind::Unsupported))),
    }
}

/// What the kernel has, as far as is asked for.
fn abi(status: &LandlockStatus) -> i32 {
    match status {
        LandlockStatus::Available { effective_abi, .. } => *effective_abi as i32,
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    }
}
