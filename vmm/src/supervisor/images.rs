//! The images that this VM may boot, lent to the VMM as copies in memory.
//!
//! A file system may take its time, or never answer, so while a VM runs this process opens no image itself: a child opens the file
//! and copies it (`image_copy`), with a deadline. The VMM gets the copy, which nobody can write or make longer, and never a file of the
//! host. This process can still empty it, and does when the VMM closes it: what a VMM keeps of a closed image has no
//! memory, so it can take no more than its images at a time are worth.
//! Limits: `MAX_IMAGES` copies at a time, `MAX_IMAGE_BYTES` or the guest's memory each; one file is read at a time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use protocol::supervisor::Reply;
use rustix::fs::{MemfdFlags, SealFlags};
use sandbox::prepare::Child;

use super::attach::Answer;
use super::deadline;
use super::errand::{Errand, Order};
use crate::config::{IMAGE_COPY_FD, STAGE_COPY_IMAGE};
use crate::one_line::one_line;

#[cfg(test)]
mod tests;

/// Largest image in bytes. Source: initial RAM disks with a whole system in them have some hundreds of MiB.
/// Why bounded: each copy is memory of the host.
const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// What was lent, and what is being read.
#[derive(Debug)]
pub(super) struct Images {
    /// This very program, which copies.
    program: PathBuf,
    limit_bytes: u64,
    reading: Option<Reading>,
    /// By the number of the request that opened it.
    lent: BTreeMap<u32, OwnedFd>,
}

#[derive(Debug)]
struct Reading {
    path: String,
    copy: OwnedFd,
    errand: Errand,
    /// The request that waits; none once it was told that this takes too long.
    number: Option<u32>,
}

impl Images {
    /// None yet. `memory_bytes`: what the guest has, of which no image can need more.
    pub(super) fn new(program: PathBuf, memory_bytes: u64) -> Images {
        Images {
            program,
            limit_bytes: memory_bytes.min(MAX_IMAGE_BYTES),
            reading: None,
            lent: BTreeMap::new(),
        }
    }

    /// Begins to read an image that the policy allows, for this request.
    pub(super) fn open(&mut self, number: u32, path: &str) -> Result<(), String> {
        if let Some(reading) = &self.reading {
            let state = match reading.number {
                Some(_) => "is being read",
                None => "was not read in time and still is waited for",
            };
            return Err(format!("image {} {state}: try again", reading.path));
        }
        if self.lent.contains_key(&number) {
            return Err(format!(
                "request {number} has an image already: close it first"
            ));
        }
        if self.lent.len() >= deadline::MAX_IMAGES {
            return Err(format!(
                "this VM has {} images open, as many as it may have: close one first",
                self.lent.len()
            ));
        }
        let failed =
            |error: &dyn std::error::Error| format!("copy image {path}: {}", one_line(error));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = rustix::fs::memfd_create("image", flags).map_err(|error| failed(&error))?;
        let child_copy = copy.try_clone().map_err(|error| failed(&error))?;
        let limit = self.limit_bytes.to_string();
        let arguments = vec![STAGE_COPY_IMAGE.into(), path.into(), limit.into()];
        let order = Order {
            child: Child::new(&self.program, arguments).fd(IMAGE_COPY_FD, child_copy),
            limit: deadline::IMAGE,
            late: "its file system did not give it",
        };
        let errand = Errand::start(order).map_err(|error| failed(&error))?;
        self.reading = Some(Reading {
            path: path.to_owned(),
            copy,
            errand,
            number: Some(number),
        });
        Ok(())
    }

    /// The VMM has let go of an image, or waits for it no longer; one that is not there is closed already.
    pub(super) fn close(&mut self, image: u32) {
        if let Some(reading) = &mut self.reading
            && reading.number == Some(image)
        {
            reading.errand.give_up();
            return;
        }
        let Some(copy) = self.lent.remove(&image) else {
            return;
        };
        if let Err(error) = rustix::fs::ftruncate(&copy, 0) {
            tracing::error!(%error, "The memory of a closed image cannot be taken back");
        }
    }

    /// What to poll.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.reading.as_ref().map(|reading| reading.errand.pidfd())
    }

    /// When one is late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let reading = self.reading.as_ref()?;
        reading.number.map(|_| reading.errand.deadline())
    }

    /// The answer that is due, if one is. A copy is lent from here on.
    pub(super) fn on_time(&mut self, now: Instant) -> Option<Answer> {
        let mut reading = self.reading.take()?;
        let Some(number) = reading.number else {
            if reading.errand.is_running() {
                self.reading = Some(reading);
            }
            return None;
        };
        let Some(outcome) = reading.errand.outcome(now) else {
            self.reading = Some(reading);
            return None;
        };
        let lent = outcome
            .map_err(|reason| format!("image {}: {reason}", reading.path))
            .and_then(|()| self.lend(number, &reading.copy));
        if reading.errand.is_running() {
            // Killed, and not gone yet: nothing else is read as long as it keeps a file system waiting.
            reading.number = None;
            self.reading = Some(reading);
        }
        Some(match lent {
            Ok(copy) => (Reply::Opened { number }, Some(copy)),
            Err(reason) => {
                tracing::warn!(reason, "The VMM was not given an image");
                (Reply::refused(number, &reason), None)
            }
        })
    }

    fn lend(&mut self, number: u32, copy: &OwnedFd) -> Result<OwnedFd, String> {
        let seal_and_copy = || -> io::Result<(OwnedFd, OwnedFd)> {
            // Not SHRINK: that is how its memory is taken back. SEAL, so that nobody adds it.
            let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(copy, seals)?;
            Ok((copy.try_clone()?, copy.try_clone()?))
        };
        let (ours, theirs) =
            seal_and_copy().map_err(|error| format!("seal an image: {}", one_line(&error)))?;
        self.lent.insert(number, ours);
        Ok(theirs)
    }
}
