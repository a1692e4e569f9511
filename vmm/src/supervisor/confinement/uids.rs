//! Users for processes, out of the operator's range: no two running processes have the same one, whichever VM they belong to.
//!
//! A user is taken by a lock on a file of its number. The supervisor holds the lock for as long as the process runs; the kernel
//! gives it back if the supervisor dies.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ConfinementError;
use crate::config::UidRange;

/// The range, and where its locks are.
#[derive(Debug)]
pub(super) struct Uids {
    range: UidRange,
    folder: PathBuf,
}

/// One that is taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Uid {
    number: u32,
    lock: File,
}

impl Uids {
    pub(super) fn new(folder: &Path, range: UidRange) -> Result<Uids, ConfinementError> {
        let mut parents = std::fs::DirBuilder::new();
        let made = parents.recursive(true).mode(0o755).create(folder);
        made.map_err(|source| ConfinementError::Folder {
            range,
            folder: folder.to_owned(),
            source,
        })?;
        Ok(Uids {
            range,
            folder: folder.to_owned(),
        })
    }

    /// Takes the lowest that is free.
    pub(super) fn take(&self) -> Result<Uid, ConfinementError> {
        let range = self.range;
        for number in range.first..=range.last {
            let lock = self
                .lock(number)
                .map_err(|source| ConfinementError::Folder {
                    range,
                    folder: self.folder.clone(),
                    source,
                })?;
            if let Some(lock) = lock {
                return Ok(Uid { number, lock });
            }
        }
        Err(ConfinementError::AllInUse { range })
    }

    /// `None`: somebody has it.
    fn lock(&self, number: u32) -> io::Result<Option<File>> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.folder.join(number.to_string()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Uid {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The open file whose lock it is.
    pub(super) fn into_lock(self) -> OwnedFd {
        self.lock.into()
    }
}
