//! One device server that waits for its device, where the VM may be given one: `device_add` then need not wait for a process to start.
//!
//! It is started when the VM has been left alone for `deadline::SPARE`, or a device has left it, and counts for nothing: it holds nothing of the VM, and where it
//! cannot be had or used a device gets a server that is started for it.
//! Limit: one at a time.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::deadline;
use super::spawn::Spawner;
use super::waiting::Waiting;
use crate::one_line::one_line;

/// The one that waits, and when there is to be another.
#[derive(Debug, Default)]
pub(super) struct Spare {
    pub(super) waiting: Option<Waiting>,
    start_at: Option<Instant>,
}

impl Spare {
    /// From now on one may be of use. Whatever the VM is doing now goes first.
    pub(super) fn expect(&mut self, now: Instant) {
        self.start_at = Some(now + deadline::SPARE);
    }

    /// A device has left, and may come again at once.
    pub(super) fn expect_soon(&mut self, now: Instant) {
        self.start_at = Some(now + deadline::SPARE_AFTER_RELEASE);
    }

    /// There will be no device any more.
    pub(super) fn end(&mut self) {
        *self = Spare::default();
    }

    /// What to poll.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(Waiting::pidfd)
    }

    /// When one is to be started.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.start_at
    }

    /// Notes its end, and starts one if it is time and `wanted`.
    pub(super) fn on_time(&mut self, now: Instant, wanted: impl Fn() -> bool, spawner: &Spawner) {
        if let Some((ending, reason)) = self.waiting.as_mut().and_then(Waiting::ended) {
            tracing::debug!(%ending, reason, "A device server that waited has ended");
            self.waiting = None;
        }
        if self.start_at.is_none_or(|at| now < at) {
            return;
        }
        self.start_at = None;
        if self.waiting.is_some() || !wanted() {
            return;
        }
        match spawner.waiting_server() {
            Ok(waiting) => {
                tracing::debug!(pid = waiting.pid(), "A device server waits for a device");
                self.waiting = Some(waiting);
            }
            Err(error) => {
                let error = one_line(&error);
                tracing::debug!(error, "No device server waits for a device");
            }
        }
    }
}
