//! Log records for systemd's journal.
//!
//! systemd `JOURNAL_NATIVE_PROTOCOL`: one datagram per record; a field is "NAME", a length and a value. The crate
//! tracing-journald looks the socket up by its path at every record, and makes a memfd of a long one: neither exists in
//! our sandboxes, so this socket is connected once, records have a limit, and one that does not fit is cut.
//! A journal that is slow costs records, never time.
//! Limits: `MAX_RECORD_BYTES`.

use std::fmt::{Debug, Write};
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest record that is sent, in bytes. Source: Linux gives a datagram socket 208 KiB to send by default.
const MAX_RECORD_BYTES: usize = 64 << 10;
/// Longest value of a field, in bytes: several fit into a record.
const MAX_VALUE_BYTES: usize = 8 << 10;
/// Longest name of a field. Source: the journal ignores longer ones.
const MAX_NAME_BYTES: usize = 64;

/// A connection to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: OwnedFd,
}

impl Journal {
    /// Connects to the host's journal.
    pub fn connect() -> io::Result<Journal> {
        Journal::connect_to(SOCKET)
    }

    fn connect_to(path: &str) -> io::Result<Journal> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Journal { socket })
    }

    /// Takes over a connection that another process made.
    pub fn from_connected(socket: OwnedFd) -> Journal {
        Journal { socket }
    }

    fn send(&self, record: &Fields) {
        // As a write, which is what every sandbox lets a log do; the socket does not wait, and a datagram raises no SIGPIPE.
        // A record that is lost is no reason to die.
        let _ = rustix::io::write(&self.socket, &record.0);
    }
}

impl From<Journal> for OwnedFd {
    /// The connection, for another process.
    fn from(journal: Journal) -> OwnedFd {
        journal.socket
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Fields::default();
        record.put("PRIORITY", priority(*metadata.level()));
        record.put("SYSLOG_IDENTIFIER", "bulkhead");
        record.put("BULKHEAD_TARGET", metadata.target());
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                record.append(fields);
            }
        }
        event.record(&mut record);
        self.send(&record);
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Fields as they go over the wire.
#[derive(Debug, Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, name: &str, value: &str) {
        let end = value.floor_char_boundary(MAX_VALUE_BYTES);
        let value = value.get(..end).unwrap_or_default().as_bytes();
        let mut field = [name.as_bytes(), b"\n"].concat();
        field.extend((value.len() as u64).to_le_bytes());
        field.extend(value);
        field.push(b'\n');
        if self.0.len().saturating_add(field.len()) <= MAX_RECORD_BYTES {
            self.0.extend(field);
        }
    }

    fn append(&mut self, other: &Fields) {
        if self.0.len().saturating_add(other.0.len()) <= MAX_RECORD_BYTES {
            self.0.extend(&other.0);
        }
    }

    fn put_field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.put("MESSAGE", value);
        }
        let name = field
            .name()
            .to_ascii_uppercase()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let mut name = format!("BULKHEAD_{name}");
        name.truncate(MAX_NAME_BYTES);
        self.put(&name, value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = write!(text, "{value:?}");
        self.put_field(field, &text);
    }
}

#[cfg(test)]
mod tests;
