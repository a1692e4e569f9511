//! One QMP client, without its socket: bytes in, steps for the command thread out, answers and events to send.
//!
//! Spec: QMP §2.2 (greeting), §4 (capability negotiation mode). Before `qmp_capabilities` no other command runs and no
//! event is sent. Answers come in the order of the requests, so what is wrong with a request is a step like any other.
//! Limits: [`MAX_STEPS_IN_FLIGHT`]; [`MAX_OUTPUT_BYTES`] queued for a client that does not read, then it is dropped.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::envelope::{Request, answer};
use super::errors::QmpError;
use super::json_stream::{JsonStream, MAX_REQUEST_BYTES, Piece};

#[cfg(test)]
mod tests;

/// Requests taken from one client before its first answer; reading stops until there is room (QEMU's
/// `QMP_REQ_QUEUE_LEN_MAX`).
pub(super) const MAX_STEPS_IN_FLIGHT: usize = 8;
/// Bytes queued for one client (1 MiB): some thousand events. Why bounded: a client may never read.
pub(super) const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// What the command thread does next for a client.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Run this command and answer.
    Run(Request),
    /// Answer with this error.
    Refuse {
        /// The request's id, where it had one.
        id: Option<Value>,
        /// What is wrong with it.
        error: QmpError,
    },
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: JsonStream,
    negotiated: bool,
    steps_in_flight: usize,
    unread: VecDeque<u8>,
    output: VecDeque<u8>,
}

impl Connection {
    /// A new client: the greeting is the first thing it reads.
    pub(super) fn new() -> Connection {
        let mut connection = Connection {
            stream: JsonStream::new(),
            negotiated: false,
            steps_in_flight: 0,
            unread: VecDeque::new(),
            output: VecDeque::new(),
        };
        connection.queue(&json!({ "QMP": { "version": version(), "capabilities": [] } }));
        connection
    }

    /// Bytes from the client.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
    }

    /// The next step that may be taken now; None when the client has sent nothing whole or has enough in flight.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        if self.steps_in_flight >= MAX_STEPS_IN_FLIGHT {
            return None;
        }
        let unread = self.unread.make_contiguous();
        let before = unread.len();
        let mut rest: &[u8] = unread;
        let piece = self.stream.push(&mut rest);
        let taken = before - rest.len();
        self.unread.drain(..taken);
        let step = self.judge(piece?);
        self.steps_in_flight += 1;
        Some(step)
    }

    /// Whether more bytes should be read from the client.
    pub(super) fn wants_input(&self) -> bool {
        self.unread.len() < MAX_REQUEST_BYTES && self.steps_in_flight < MAX_STEPS_IN_FLIGHT
    }

    /// The outcome of the oldest step.
    pub(super) fn answer(&mut self, id: Option<&Value>, outcome: Result<Value, QmpError>) {
        self.steps_in_flight = self.steps_in_flight.saturating_sub(1);
        self.queue(&answer(id, outcome));
    }

    /// An event, for a client that has negotiated.
    pub(super) fn event(&mut self, event: &Value) {
        if self.negotiated {
            self.queue(event);
        }
    }

    /// What to send next.
    pub(super) fn output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// The first `count` bytes of [`Self::output`] were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }

    /// Nothing is left to run or to send.
    pub(super) fn is_idle(&self) -> bool {
        self.steps_in_flight == 0 && self.output.is_empty()
    }

    /// The client does not read what it is sent: drop it.
    pub(super) fn overflowed(&self) -> bool {
        self.output.len() > MAX_OUTPUT_BYTES
    }

    fn judge(&mut self, piece: Piece) -> Step {
        let text = match piece {
            Piece::Value(text) => text,
            Piece::TooLong => {
                return Step::Refuse {
                    id: None,
                    error: QmpError::too_long(MAX_REQUEST_BYTES),
                };
            }
        };
        match Request::parse(&text) {
            Ok(request) => self.admit(request),
            Err(bad) => {
                if bad.out_of_step {
                    self.stream.skip_line();
                }
                Step::Refuse {
                    id: bad.id,
                    error: bad.error,
                }
            }
        }
    }

    /// Negotiation comes first, once.
    fn admit(&mut self, request: Request) -> Step {
        let negotiates = request.execute == "qmp_capabilities";
        let error = match (self.negotiated, negotiates) {
            (false, false) => QmpError::not_negotiated(),
            (true, true) => QmpError::negotiated_already(),
            (false, true) => {
                // Only a negotiation that will succeed ends the negotiation mode.
                self.negotiated = capabilities_are_ours(&request);
                return Step::Run(request);
            }
            (true, false) => return Step::Run(request),
        };
        Step::Refuse {
            id: request.id,
            error,
        }
    }

    fn queue(&mut self, value: &Value) {
        self.output.extend(value.to_string().as_bytes());
        self.output.extend(b"\r\n");
    }
}

/// We offer no capability, so the list of those to enable is empty or absent.
fn capabilities_are_ours(request: &Request) -> bool {
    request
        .arguments
        .iter()
        .all(|(name, value)| name == "enable" && value.as_array().is_some_and(Vec::is_empty))
}

/// `query-version`'s answer and the greeting's `version`. QEMU's clients want `qemu`; the package says who we are.
pub(super) fn version() -> Value {
    let mut parts = env!("CARGO_PKG_VERSION")
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    let numbers = json!({ "major": next(), "minor": next(), "micro": next() });
    json!({ "qemu": numbers, "package": concat!("bulkhead-", env!("CARGO_PKG_VERSION")) })
}
