//! How many messages of each command went over a connection.

use crate::header::CommandCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// One more than the largest command number.
const COMMANDS: usize = 19;

/// Messages by command: requests of the client, and DMA requests of the server that were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageCounters {
    counts: [u64; COMMANDS],
    refused: [u64; COMMANDS],
}

impl Default for MessageCounters {
    /// No message yet.
    fn default() -> MessageCounters {
        Counters::default().read()
    }
}

impl MessageCounters {
    /// Messages of one command; 0 for a number that is no command.
    #[must_use]
    pub fn of(&self, command: CommandCode) -> u64 {
        self.counts
            .get(usize::from(command.0))
            .copied()
            .unwrap_or(0)
    }

    /// Messages of all commands.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Commands that were seen, with their numbers of messages.
    pub fn by_command(&self) -> impl Iterator<Item = (CommandCode, u64)> + use<> {
        seen(self.counts)
    }

    /// Commands of which the server refused requests, with the numbers of those.
    pub fn refused_by_command(&self) -> impl Iterator<Item = (CommandCode, u64)> + use<> {
        seen(self.refused)
    }
}

fn seen(counts: [u64; COMMANDS]) -> impl Iterator<Item = (CommandCode, u64)> {
    let counts = (0u16..).map(CommandCode).zip(counts);
    counts.filter(|(_, count)| *count > 0)
}

/// Counted from several threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: [AtomicU64; COMMANDS],
    refused: [AtomicU64; COMMANDS],
}

impl Counters {
    pub(super) fn count(&self, command: CommandCode) {
        count(&self.counts, command);
    }

    /// The server answered a request with an error.
    pub(super) fn count_refused(&self, command: CommandCode) {
        count(&self.refused, command);
    }

    pub(super) fn read(&self) -> MessageCounters {
        MessageCounters {
            counts: read(&self.counts),
            refused: read(&self.refused),
        }
    }
}

fn count(counters: &[AtomicU64; COMMANDS], command: CommandCode) {
    if let Some(counter) = counters.get(usize::from(command.0)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(counters: &[AtomicU64; COMMANDS]) -> [u64; COMMANDS] {
    counters
        .each_ref()
        .map(|counter| counter.load(Ordering::Relaxed))
}
