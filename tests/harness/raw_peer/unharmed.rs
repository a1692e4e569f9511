//! What a hostile peer must leave of its victim: the four checks after each refusal.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{PATIENCE, RawPeer};
use crate::deadline::eventually;
use crate::proc_files;

/// Resident memory that a peer may cost: the largest message and its answer, and as much again.
const MEMORY_KIB: u64 = 4 << 10;

/// What processes held before a peer came.
#[derive(Debug, Clone)]
pub struct Held {
    pids: Vec<u32>,
    fds: usize,
    memory_kib: u64,
}

impl Held {
    pub fn by(pids: &[u32]) -> Result<Self> {
        let (pids, fds) = (pids.to_vec(), open_fds(pids)?);
        let memory_kib = peak_memory_kib(&pids)?;
        Ok(Self {
            pids,
            fds,
            memory_kib,
        })
    }

    /// No descriptor more than then, in a moment, and memory never grew beyond a limit.
    pub fn is_all(&self) -> Result<()> {
        let settled = eventually("the descriptors that were open before", PATIENCE, || {
            (open_fds(&self.pids).ok()? <= self.fds).then_some(())
        });
        ensure!(
            settled.is_ok(),
            "{} descriptors are open, {} before",
            open_fds(&self.pids)?,
            self.fds
        );
        let grown = peak_memory_kib(&self.pids)?.saturating_sub(self.memory_kib);
        ensure!(grown < MEMORY_KIB, "{grown} KiB more were in memory");
        Ok(())
    }

    /// The server at `socket` has lived through `peer`: the connection is in step or closed, no descriptor is left, memory is
    /// bounded, and the next client is served.
    #[track_caller]
    pub fn by_server_after(&self, socket: &Path, peer: RawPeer) {
        peer.is_in_step_or_closed();
        drop(peer);
        self.is_all().expect("after the peer");
        RawPeer::negotiated(socket).is_in_step();
        self.is_all().expect("after the next client");
    }
}

fn open_fds(pids: &[u32]) -> Result<usize> {
    let mut open = 0;
    for pid in pids {
        open += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    }
    Ok(open)
}

fn peak_memory_kib(pids: &[u32]) -> Result<u64> {
    let each = pids.iter().map(|pid| proc_files::status_kib(*pid, "VmHWM"));
    each.sum()
}
