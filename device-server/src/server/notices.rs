//! What is said about a client's mistakes: once per kind and connection, so that a flood does not flood the log.

use std::collections::BTreeSet;

use protocol::{BadField, CommandCode};

/// Kinds that one connection can put into the log.
const MAX_KINDS: usize = 64;

/// The target of events that a person who watches for attacks wants to see.
pub(super) const SECURITY: &str = "bulkhead::security";

/// What was said already on this connection.
#[derive(Debug)]
pub(super) struct Notices<'a> {
    device: &'a str,
    said: BTreeSet<(u16, &'static str)>,
    refusals: u64,
}

impl<'a> Notices<'a> {
    /// Nothing yet.
    pub(super) fn new(device: &'a str) -> Notices<'a> {
        Notices {
            device,
            said: BTreeSet::new(),
            refusals: 0,
        }
    }

    /// A request was refused.
    pub(super) fn refused(&mut self, command: CommandCode, bad: BadField) {
        self.refusals = self.refusals.saturating_add(1);
        // All commands that do not exist are one kind.
        let kind = command.name().map_or(0, |_| command.0);
        if self.said.len() >= MAX_KINDS || !self.said.insert((kind, bad.field)) {
            return;
        }
        tracing::warn!(
            target: SECURITY,
            device = self.device,
            command = %command,
            field = bad.field,
            value = format_args!("{:#x}", bad.value),
            errno = bad.errno.raw_os_error(),
            "Request refused; more of this kind are not logged"
        );
    }

    /// The connection is over.
    pub(super) fn sum_up(&self) {
        if self.refusals > 0 {
            let (device, refusals) = (self.device, self.refusals);
            tracing::info!(target: SECURITY, device, refusals, "Requests of this client were refused");
        }
    }
}
