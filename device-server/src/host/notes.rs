//! What is remembered of a device while it is with VFIO (its driver), and the lock that keeps two callers apart.
//!
//! Files below /run: RUN/ADDRESS.json and RUN/ADDRESS.lock. The lock is flock(2): it ends with the process that has it.
//! A lock file stays, because removing it would let two callers lock two files of one name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use protocol::PciAddress;
use serde_json::json;

use super::device::is_vfio_driver;
use super::error::HostError;
use super::roots::Roots;

/// Longest note that is read, in bytes. Source: two driver names, each at most a file name.
const MAX_NOTE_BYTES: u64 = 4096;

/// How a device was before it was given to VFIO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Its driver.
    pub driver: Option<String>,
    /// Its driver_override; empty for none.
    pub driver_override: String,
}

impl Before {
    /// Whether it is with a driver that is not VFIO's.
    pub(super) fn has_host_driver(&self) -> bool {
        let driver = self.driver.as_deref();
        driver.is_some_and(|driver| !is_vfio_driver(driver))
    }

    /// As it is to be when it is given back: an override to VFIO would take it to VFIO again.
    pub(super) fn to_give_back(&self) -> Before {
        let mut before = self.clone();
        if is_vfio_driver(&before.driver_override) {
            before.driver_override.clear();
        }
        before
    }

    /// The override with which the kernel finds just the driver that it had, whatever else fits: another driver may have
    /// been told its ids by new_id meanwhile.
    pub(super) fn override_to_probe(&self) -> &str {
        self.driver.as_deref().unwrap_or(&self.driver_override)
    }
}

/// Keeps the note of `address`.
pub(super) fn save(roots: &Roots, address: PciAddress, before: &Before) -> Result<(), HostError> {
    let path = note_path(roots, address);
    let text = json!({ "driver": before.driver, "driver_override": before.driver_override });
    let draft = path.with_extension("draft");
    fs::create_dir_all(&roots.run)
        .and_then(|()| fs::write(&draft, format!("{text}\n")))
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| HostError::Note {
            address,
            path,
            source,
        })
}

/// The note of `address`; nothing if there is none, or none that can be read.
pub(super) fn load(roots: &Roots, address: PciAddress) -> Option<Before> {
    let mut text = String::new();
    let file = File::open(note_path(roots, address)).ok()?;
    file.take(MAX_NOTE_BYTES).read_to_string(&mut text).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let driver = value.get("driver")?;
    let driver = if driver.is_null() {
        None
    } else {
        Some(driver.as_str()?.to_owned())
    };
    Some(Before {
        driver,
        driver_override: value.get("driver_override")?.as_str()?.to_owned(),
    })
}

/// Forgets `address`.
pub(super) fn remove(roots: &Roots, address: PciAddress) {
    // Not there is what we want; a note that cannot be removed is overwritten by the next bind.
    let _ = fs::remove_file(note_path(roots, address));
}

fn note_path(roots: &Roots, address: PciAddress) -> PathBuf {
    roots.run.join(format!("{address}.json"))
}

/// The right to bind or unbind one device.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes it, or says who has it.
    pub(super) fn take(roots: &Roots, address: PciAddress) -> Result<Lock, HostError> {
        let path = roots.run.join(format!("{address}.lock"));
        let note = |source| HostError::Note {
            address,
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&roots.run).map_err(note)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(note)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HostError::Busy {
                    address,
                    by: owner(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(note(source)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(note)?;
        Ok(Lock { file })
    }

    /// The same lock for a helper process: it lasts until both have ended.
    pub(super) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Who wrote itself into a lock file.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        (_, _) => "another process".to_owned(),
    }
}
