//! How many messages of each command went over a connection.

use crate::header::CommandCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// One more than the largest command number.
const COMMANDS: usize = 19;

/// Messages by command: requests of the client, and DMA requests of the server that were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageCounters {
    counts: [u64; COMMANDS],
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
    pub fn by_command(&self) -> impl Iterator<Item = (CommandCode, u64)> + '_ {
        (0u16..)
            .map(CommandCode)
            .zip(self.counts.iter().copied())
            .filter(|(_, count)| *count > 0)
    }
}

/// Counted from several threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: [AtomicU64; COMMANDS],
}

impl Counters {
    pub(super) fn count(&self, command: CommandCode) {
        if let Some(counter) = self.counts.get(usize::from(command.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> MessageCounters {
        let mut counts = [0; COMMANDS];
        for (count, counter) in counts.iter_mut().zip(&self.counts) {
            *count = counter.load(Ordering::Relaxed);
        }
        MessageCounters { counts }
    }
}
