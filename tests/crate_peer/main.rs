//! The `vfio_user` crate as a peer of our own programs: tests/interop and the round-trip bench start it.
//!
//! It is a process of its own, with a limit on memory, because the crate panics, allocates by numbers of its peer and
//! waits for ever (shared reference conformance.md, part C). Who starts it must bound the time.
//! Usage: bulkhead-crate-peer client|server SOCKET

mod client;
mod server;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Address space, in bytes.
const MEMORY_LIMIT: u64 = 1 << 30;
const USAGE: &str = "usage: bulkhead-crate-peer client|server SOCKET";

fn main() -> Result<()> {
    let limit = Rlimit {
        current: Some(MEMORY_LIMIT),
        maximum: Some(MEMORY_LIMIT),
    };
    setrlimit(Resource::As, limit).context("limit the address space")?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", socket] => client::run(socket.as_ref()),
        ["server", socket] => server::run(socket.as_ref()),
        _ => bail!(USAGE),
    }
}
