//! Landlock: nothing of any file system, no network, no signals or sockets outside, as far as the kernel knows how.
//!
//! Only descriptors that are opened afterwards are concerned: what is held already is seccomp's to restrain.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::{Mode, OFlags};

use super::MechanismError;

/// The newest rights that are asked for; older kernels get what they have.
const NEWEST: ABI = ABI::V10;
/// Without this much it is not worth its name.
const OLDEST: ABI = ABI::V1;

/// What a device node is opened for.
const NODE_ACCESS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});

/// A folder of which something is still needed.
#[derive(Debug)]
pub struct Folder {
    /// A copy of the folder's descriptor.
    pub fd: OwnedFd,
    /// The number that stays usable.
    pub number: RawFd,
    /// What is needed of it.
    pub need: Need,
    /// What for.
    pub why: &'static str,
}

/// What is needed of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// To remove a file in it.
    RemoveFile,
    /// To open the device node of this name in it, for reading and writing.
    OpenNode(String),
}

/// Applies it. What is needed of `folders` stays possible.
pub fn apply(folders: &[Folder]) -> Result<String, MechanismError> {
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
        let rule = match &folder.need {
            Need::RemoveFile => {
                ruleset.add_rule(PathBeneath::new(&folder.fd, AccessFs::RemoveFile))
            }
            Need::OpenNode(name) => {
                let node = open_path(folder, name)?;
                ruleset.add_rule(PathBeneath::new(node, NODE_ACCESS))
            }
        };
        ruleset = rule.map_err(|error| failed(&error))?;
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

/// A file to make a rule about.
fn open_path(folder: &Folder, name: &str) -> Result<OwnedFd, MechanismError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&folder.fd, name, flags, Mode::empty())
        .map_err(MechanismError::at("look at a device node for Landlock"))
}
