//! What is said about the answers of a device's server: once per kind, so that no server and no guest floods the log.
//!
//! A kind is what we tried, the command, and the field that makes no sense, whatever its value.
//! Limits: `MAX_KINDS` lines per part of a device; there are three.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

use protocol::client::ClientError;
use tracing::Span;

use crate::one_line::one_line;

const MAX_KINDS: usize = 32;

type Kind = (&'static str, u16, &'static str);

/// What was said already of one device.
#[derive(Debug)]
pub(super) struct Notices {
    span: Span,
    said: Mutex<BTreeSet<Kind>>,
}

impl Notices {
    /// Nothing yet. `span` is that of lines about the device.
    pub(super) fn new(span: Span) -> Self {
        Self {
            span,
            said: Mutex::default(),
        }
    }

    /// Something about the device failed; the guest goes on without it.
    pub(super) fn failed(&self, what: &'static str, error: &(dyn Error + 'static)) {
        self.failed_at(what, None, error);
    }

    /// The same for one interrupt vector.
    pub(super) fn failed_at(
        &self,
        what: &'static str,
        vector: Option<u32>,
        error: &(dyn Error + 'static),
    ) {
        if self.is_first(kind(what, error)) {
            tracing::warn!(
                parent: &self.span,
                vector,
                error = one_line(error),
                "{what}; more of this kind are not logged"
            );
        }
    }

    /// Something that is no error of anybody's.
    pub(super) fn once(&self, what: &'static str) {
        if self.is_first((what, 0, "")) {
            tracing::warn!(parent: &self.span, "{what}; this is logged once");
        }
    }

    fn is_first(&self, kind: Kind) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MAX_KINDS && said.insert(kind)
    }
}

fn kind(what: &'static str, error: &(dyn Error + 'static)) -> Kind {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    match causes.find_map(|error| error.downcast_ref()) {
        Some(ClientError::Refused { command, .. }) => (what, command.0, "refused"),
        Some(ClientError::BadAnswer { command, bad }) => (what, command.0, bad.field),
        Some(ClientError::Unsendable { command, what: why }) => (what, command.0, why),
        Some(
            ClientError::Busy { .. }
            | ClientError::TooManyInFlight { .. }
            | ClientError::Socket(_)
            | ClientError::Watch(_)
            | ClientError::Lost(_),
        )
        | None => (what, 0, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{BadField, CommandCode, Errno};

    #[test]
    fn kind_of_failure_is_said_once_whatever_its_value() {
        let notices = Notices::new(Span::none());
        let refused = |errno| ClientError::Refused {
            command: CommandCode::REGION_READ,
            errno,
        };
        let bad = |field, value: u32| ClientError::BadAnswer {
            command: CommandCode::REGION_READ,
            bad: BadField::invalid(field, value),
        };
        let first = |error: ClientError| notices.is_first(kind("read", &error));
        assert!(first(refused(Errno::IO)));
        assert!(!first(refused(Errno::INVAL)));
        assert!(first(bad("count", 1)));
        assert!(!first(bad("count", 2)));
        assert!(first(bad("offset", 1)));
    }

    #[test]
    fn number_of_lines_about_a_device_is_limited() {
        let notices = Notices::new(Span::none());
        let said = (0..1000).filter(|number| notices.is_first(("read", *number, "")));
        assert_eq!(said.count(), MAX_KINDS);
    }
}
