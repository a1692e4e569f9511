//! What is said about a client's mistakes: once per kind and connection, so that a flood does not flood the log.

use std::collections::BTreeSet;

use protocol::{BadField, CommandCode};
use telemetry::security::Event;

/// Kinds that one connection can put into the log.
const MAX_KINDS: usize = 64;

/// What was said already on this connection.
#[derive(Debug)]
pub(super) struct Notices<'a> {
    device: (&'a str, &'a str),
    said: BTreeSet<(u16, &'static str)>,
    refusals: u64,
}

impl<'a> Notices<'a> {
    /// Nothing yet. `device`: its id and its PCI address.
    pub(super) fn new(device: (&'a str, &'a str)) -> Notices<'a> {
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
        let BadField {
            errno,
            field,
            value,
            ..
        } = bad;
        let detail = format!("{field} is {value:#x}: {}", std::io::Error::from(errno));
        let message = "Request refused; more of this kind are not logged";
        Event::MessageRefused.report(Some(self.device), &command.to_string(), &detail, message);
    }

    /// The connection is over.
    pub(super) fn sum_up(&self) {
        if self.refusals > 0 {
            tracing::info!(
                refusals = self.refusals,
                "Requests of this client were refused"
            );
        }
    }
}
