//! Stands between a VMM and a device server, hands every message on, and counts them.
//!
//! What it counts does not depend on our own engine. Fds go on with the bytes that they came with.
//! Limits: one client; those of `raw_message.rs`.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raw_message::RawMessage;
use anyhow::{Context, Result};

/// vfio-user DEVICE_GET_REGION_INFO.
const REGION_INFO: u16 = 5;

type Counts = Arc<Mutex<Tally>>;

#[derive(Debug, Default)]
struct Tally {
    /// Messages by command.
    messages: BTreeMap<u16, u64>,
    /// Fds that came with region infos, which only a server sends: they give access to BARs.
    bar_fds: u64,
}

/// Counts the messages of one session, replies included.
#[derive(Debug)]
pub struct MessageCounter {
    counts: Counts,
}

impl MessageCounter {
    /// Listens on `socket` for one client, and connects it to `server`.
    pub fn between(socket: &str, server: &str) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket}"))?;
        let server = UnixStream::connect(server).with_context(|| format!("connect to {server}"))?;
        let counts = Counts::default();
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            if let Ok((client, _)) = listener.accept() {
                relay_both_ways(&client, &server, &shared);
            }
        });
        Ok(Self { counts })
    }

    /// Messages so far, in both directions.
    pub fn total(&self) -> u64 {
        self.tally().messages.values().sum()
    }

    /// Messages so far by vfio-user command number.
    pub fn by_command(&self) -> BTreeMap<u16, u64> {
        self.tally().messages.clone()
    }

    /// Fds that give access to BARs, so far.
    pub fn bar_fds(&self) -> u64 {
        self.tally().bar_fds
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn relay_both_ways(client: &UnixStream, server: &UnixStream, counts: &Counts) {
    std::thread::scope(|scope| {
        for (from, to) in [(client, server), (server, client)] {
            scope.spawn(move || {
                // The session ends when either side closes or breaks the framing; then the other side learns of it.
                let _ = relay(from, to, counts);
                let _ = to.shutdown(std::net::Shutdown::Both);
                let _ = from.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

fn relay(from: &UnixStream, to: &UnixStream, counts: &Counts) -> Result<()> {
    loop {
        let message = RawMessage::receive(from)?;
        let command = message.command();
        let mut tally = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.messages.entry(command).or_default() += 1;
        if command == REGION_INFO {
            tally.bar_fds += u64::try_from(message.fds.len())?;
        }
        drop(tally);
        message.send(to)?;
    }
}
