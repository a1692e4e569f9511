//! How children are confined, as far as that is their parent's to do: a user, a pid namespace, a control group.
//!
//! Everything else a child does for itself, first thing (`sandbox::enter`). What cannot be done is found before anything is started.

mod uids;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sandbox::mechanisms::{capabilities, identity};
use sandbox::prepare::{Child, PidNamespace};
use sandbox::profile::Mode;

use self::uids::{Uid, Uids};
use crate::config::{SandboxConfig, UidRange};

/// What makes a file system one of cgroup v2 (Linux, include/uapi/linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// Process ids end below this (Linux, PID_MAX_LIMIT on 64 bits).
const MAX_PID: u32 = 1 << 22;
/// Users and groups as this process's user namespace has them.
const USER_MAPS: [&str; 2] = ["/proc/self/uid_map", "/proc/self/gid_map"];
/// Where the users in use are noted; see `uids`.
const UIDS_FOLDER: &str = "/run/bulkhead/sandbox-uids";

/// What all children of one VM have in common.
#[derive(Debug)]
pub(super) struct Confinement {
    mode: Mode,
    privileged: bool,
    uids: Option<Uids>,
    cgroup: Option<OwnedFd>,
}

/// What one child begins with.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) mode: Mode,
    uid: Option<Uid>,
    pid_namespace: PidNamespace,
    cgroup: Option<OwnedFd>,
}

/// Why children cannot be confined as the operator wants.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfinementError {
    #[error(
        "-sandbox-uids {range}: only root can change the user of a process; leave it out, and each process gets a user \
         namespace of its own"
    )]
    NotPrivileged { range: UidRange },
    #[error(
        "-sandbox-uids {range}: this user namespace has no {number} ({map}); give numbers that it has"
    )]
    NotMapped {
        range: UidRange,
        number: u32,
        map: &'static str,
    },
    #[error(
        "the sandbox: this user namespace has no users from {first} on ({map}); give some that it has with -sandbox-uids \
         FIRST-LAST"
    )]
    DefaultNotMapped { first: u32, map: &'static str },
    #[error(
        "-sandbox-uids {range}: note which are in use in {folder}; make it a folder that root can write"
    )]
    Folder {
        range: UidRange,
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("-sandbox-uids {range}: all of them are in use; give more, or end another VM")]
    AllInUse { range: UidRange },
    #[error("-sandbox-cgroup {path}: cannot be opened; make it first (mkdir)")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "-sandbox-cgroup {path}: is no folder of a cgroup v2 hierarchy; give one below /sys/fs/cgroup"
    )]
    NotACgroup { path: PathBuf },
    #[error("copy the descriptor of -sandbox-cgroup")]
    Copy(#[source] io::Error),
}

impl Confinement {
    /// Checks what the operator wants against what this process may.
    pub(super) fn new(config: &SandboxConfig) -> Result<Confinement, ConfinementError> {
        let privileged = capabilities::privileged();
        let uids = match (config.uids, privileged) {
            (None, _) => None,
            (Some(range), false) => return Err(ConfinementError::NotPrivileged { range }),
            (Some(range), true) => {
                for map in USER_MAPS {
                    if let Some(number) = missing(map, range) {
                        return Err(ConfinementError::NotMapped { range, number, map });
                    }
                }
                Some(Uids::new(Path::new(UIDS_FOLDER), range)?)
            }
        };
        let changes_user = privileged && matches!(config.mode, Mode::On | Mode::BestEffort);
        if changes_user && uids.is_none() {
            refuse_unmapped_default()?;
        }
        Ok(Confinement {
            mode: config.mode,
            privileged,
            uids,
            cgroup: config.cgroup.as_deref().map(open_cgroup).transpose()?,
        })
    }

    /// The same for a child that nobody waits for: it does not take the last user of the operator's range.
    pub(super) fn birth_of_a_spare(&self) -> Result<Birth, ConfinementError> {
        let birth = self.birth()?;
        let _another = self.uids.as_ref().map(Uids::take).transpose()?;
        Ok(birth)
    }

    /// What the next child begins with.
    pub(super) fn birth(&self) -> Result<Birth, ConfinementError> {
        let pid_namespace = match (self.mode, self.privileged) {
            (Mode::Off | Mode::Inherited, _) => PidNamespace::Shared,
            (Mode::On | Mode::BestEffort, true) => PidNamespace::Own,
            (Mode::On | Mode::BestEffort, false) => PidNamespace::OwnThroughUser,
        };
        let cgroup = self.cgroup.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Birth {
            mode: self.mode,
            uid: self.uids.as_ref().map(Uids::take).transpose()?,
            pid_namespace,
            cgroup: cgroup.map_err(ConfinementError::Copy)?,
        })
    }
}

impl Birth {
    /// The user that the operator's range has for it.
    pub(super) fn uid(&self) -> Option<u32> {
        self.uid.as_ref().map(Uid::number)
    }

    /// Whether the child finds itself alone in a pid namespace.
    pub(super) fn alone(&self) -> bool {
        self.pid_namespace != PidNamespace::Shared
    }

    /// Applies it.
    pub(super) fn give(self, child: &mut Child) {
        // The terminal's signals are for the supervisor, which ends its children in order; and whoever takes one over must not
        // type into the terminal.
        child.new_session = true;
        child.pid_namespace = self.pid_namespace;
        child.best_effort = self.mode == Mode::BestEffort;
        child.cgroup = self.cgroup;
        child.held.extend(self.uid.map(Uid::into_lock));
    }
}

/// Without a range, a process makes a user of its process id; a user namespace may have none up there.
fn refuse_unmapped_default() -> Result<(), ConfinementError> {
    let first = identity::FIRST_UID;
    let last = first.saturating_add(MAX_PID - 1);
    for map in USER_MAPS {
        if missing(map, UidRange { first, last }).is_some() {
            return Err(ConfinementError::DefaultNotMapped { first, map });
        }
    }
    Ok(())
}

/// The first number of the range that a map of this user namespace lacks. A map that cannot be read lacks none: the kernel will
/// say so later.
fn missing(map: &str, range: UidRange) -> Option<u32> {
    let text = std::fs::read_to_string(map).ok()?;
    let pieces: Vec<(u64, u64)> = text.lines().filter_map(piece).collect();
    let (mut next, last) = (u64::from(range.first), u64::from(range.last));
    while next <= last {
        let holds = |(start, end): &&(u64, u64)| (*start..*end).contains(&next);
        match pieces.iter().find(holds) {
            Some((_, end)) => next = *end,
            None => return u32::try_from(next).ok(),
        }
    }
    None
}

/// "inside outside count"
fn piece(line: &str) -> Option<(u64, u64)> {
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let (start, _outside, count) = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    Some((start, start.saturating_add(count)))
}

fn open_cgroup(path: &Path) -> Result<OwnedFd, ConfinementError> {
    let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    let folder = File::options().read(true).custom_flags(flags).open(path);
    let folder = folder.map_err(|source| ConfinementError::Cgroup {
        path: path.to_owned(),
        source,
    })?;
    let is_cgroup =
        rustix::fs::fstatfs(&folder).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC);
    if !is_cgroup {
        return Err(ConfinementError::NotACgroup {
            path: path.to_owned(),
        });
    }
    Ok(folder.into())
}
