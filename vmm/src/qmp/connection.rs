//! One QMP client, without its socket: bytes in, requests for the command threads out, answers and events to send.
//!
//! Spec: QMP §2.2 (greeting), §4 (capability negotiation mode). Before `qmp_capabilities` no other command runs and no
//! event is sent. One request runs at a time, so answers come in the order of the requests.
//! Limits: [`MAX_REQUEST_BYTES`] of requests that wait; nothing is taken while [`PAUSE_OUTPUT_BYTES`] of answers wait for
//! a client that does not read, and at [`MAX_OUTPUT_BYTES`], with events, it is dropped.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::envelope::{BadRequest, Request, answer};
use super::errors::QmpError;
use super::json_stream::{JsonStream, MAX_REQUEST_BYTES, Piece};

#[cfg(test)]
mod tests;

/// Bytes queued for one client (64 KiB) at which nothing more is done for it until it reads. Why: answers to junk are
/// longer than the junk, and a client that writes first and reads later is no reason to drop it.
pub(super) const PAUSE_OUTPUT_BYTES: usize = 64 << 10;
/// Bytes queued for one client (1 MiB): some thousand events. Why bounded: a client may never read.
pub(super) const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: JsonStream,
    negotiated: bool,
    request_runs: bool,
    held_back: bool,
    unread: VecDeque<u8>,
    output: VecDeque<u8>,
}

impl Connection {
    /// A new client: the greeting is the first thing it reads.
    pub(super) fn new() -> Connection {
        let mut connection = Connection {
            stream: JsonStream::new(),
            negotiated: false,
            request_runs: false,
            held_back: false,
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

    /// The next request to run; None when the client has sent nothing whole, or waits for an answer, or does not read
    /// those that it has. What cannot be run is answered here.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        self.held_back = false;
        while !self.request_runs {
            if self.output.len() >= PAUSE_OUTPUT_BYTES {
                self.held_back = true;
                return None;
            }
            let unread = self.unread.make_contiguous();
            let before = unread.len();
            let mut rest: &[u8] = unread;
            let piece = self.stream.push(&mut rest);
            let taken = before - rest.len();
            self.unread.drain(..taken);
            match self.judge(piece?) {
                Ok(request) => {
                    self.request_runs = true;
                    return Some(request);
                }
                Err(bad) => self.queue(&answer(bad.id.as_ref(), Err(bad.error))),
            }
        }
        None
    }

    /// Whether [`Self::next_request`] stopped for want of room for answers, and there is room now.
    pub(super) fn may_go_on(&self) -> bool {
        self.held_back && self.output.len() < PAUSE_OUTPUT_BYTES
    }

    /// Whether more bytes should be read from the client.
    pub(super) fn wants_input(&self) -> bool {
        self.unread.len() < MAX_REQUEST_BYTES
    }

    /// The outcome of the request that runs; the next one waits for [`Self::request_ended`].
    pub(super) fn answer(&mut self, id: Option<&Value>, outcome: Result<Value, QmpError>) {
        self.queue(&answer(id, outcome));
    }

    /// All that the request leads to is done.
    pub(super) fn request_ended(&mut self) {
        self.request_runs = false;
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
        !self.request_runs && self.output.is_empty()
    }

    /// The client does not read what it is sent: drop it.
    pub(super) fn overflowed(&self) -> bool {
        self.output.len() > MAX_OUTPUT_BYTES
    }

    fn judge(&mut self, piece: Piece) -> Result<Request, BadRequest> {
        match piece {
            Piece::Value(text) => self.admit(Request::parse(&text)?),
            Piece::Broken(why) => Err(BadRequest {
                id: None,
                error: QmpError::broken(why),
            }),
        }
    }

    /// Negotiation comes first, once.
    fn admit(&mut self, request: Request) -> Result<Request, BadRequest> {
        let negotiates = request.execute == "qmp_capabilities";
        let error = match (self.negotiated, negotiates) {
            (false, false) => QmpError::not_negotiated(),
            (true, true) => QmpError::negotiated_already(),
            (false, true) => {
                // Only a negotiation that will succeed ends the negotiation mode.
                self.negotiated = capabilities_are_ours(&request);
                return Ok(request);
            }
            (true, false) => return Ok(request),
        };
        Err(BadRequest {
            id: request.id,
            error,
        })
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
