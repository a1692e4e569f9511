//! Which client memory the devices of the group reach, and who asked for it.
//!
//! What programs the IOMMU is below: `type1` or `file_maps`. Unmapping is always of whole maps. A map without a file
//! descriptor is memory by messages, which hardware cannot do: it stays unreachable.
//!
//! **What sharing a group means.** The IOMMU cannot tell the devices of a group apart, so all sessions of a server
//! share one address space: every device of the group reaches what any of its sessions mapped. They must belong to one
//! VM. So a range that another session mapped already is only counted when it is the same memory (same file, offset and
//! access), which is what one VM that passes several devices asks; anything else that overlaps is EEXIST. A session that
//! unmaps a shared range ends its own claim; the range goes when the last claim does.
//!
//! Limits: the client's number of maps is bounded by `server/`; a type1 container takes 65,535.

use std::fmt::Debug;

use protocol::{DmaMap, DmaMapFlags, Errno, IovaRange};

use crate::dma::table::{DmaTable, DmaTableError};

/// Maps that one address space takes (module parameter `dma_entry_limit` of vfio_iommu_type1, its default).
const MAX_MAPS: usize = 65_535;

/// The IOMMU mappings under the table.
pub(super) trait Iommu: Debug + Send {
    /// Makes the memory reachable at `map.range`. `map.fd` is there.
    fn map(&mut self, map: &DmaMap) -> Result<(), Errno>;
    /// Undoes one whole `map`.
    fn unmap(&mut self, range: IovaRange) -> Result<(), Errno>;
}

impl Iommu for Box<dyn Iommu> {
    fn map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        (**self).map(map)
    }

    fn unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        (**self).unmap(range)
    }
}

/// What the log has explained already: each kind of failure once, since a client can repeat it at will.
#[derive(Debug, Default)]
pub(super) struct Explained(Vec<Errno>);

impl Explained {
    /// Explains a failed map to the operator.
    pub(super) fn map_failed(&mut self, errno: Errno, range: IovaRange) {
        if self.0.contains(&errno) {
            return;
        }
        self.0.push(errno);
        let hint = match errno {
            Errno::NOMEM => {
                "raise the locked memory limit (RLIMIT_MEMLOCK, ulimit -l) above the guest's memory"
            }
            Errno::INVAL | Errno::ADDRINUSE => "the IOMMU cannot map these addresses",
            Errno::EXIST => "these addresses are mapped already",
            Errno::NOSPC => "the container has no room for more maps",
            _ => "see the kernel's log",
        };
        let address = format_args!("{:#x}", range.start().0);
        let bytes = range.len();
        tracing::error!(%address, bytes, %errno, hint, "Map client memory for DMA; this kind is not logged again");
    }
}

/// Judges how many bytes the kernel unmapped of `range`.
pub(super) fn unmapped(range: IovaRange, result: std::io::Result<u64>) -> Result<(), Errno> {
    let bytes = result
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .inspect_err(|error| tracing::error!(?range, %error, "Unmap client memory from DMA"))?;
    if bytes == range.len() {
        return Ok(());
    }
    tracing::error!(
        ?range,
        bytes,
        "Unmap client memory from DMA: the kernel unmapped another size"
    );
    Err(Errno::IO)
}

/// Which session a claim belongs to: the number of its device in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionId(pub(super) usize);

/// The address space of a group, with who claims what in it.
#[derive(Debug)]
pub(super) struct DmaSpace<I> {
    iommu: I,
    table: DmaTable<Claims>,
}

#[derive(Debug)]
struct Claims {
    memory: Memory,
    sessions: Vec<SessionId>,
}

/// The memory behind a map. A file is known by device and inode number: the sessions that share it hold it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    device: u64,
    inode: u64,
    file_offset: u64,
    flags: DmaMapFlags,
}

impl<I: Iommu> DmaSpace<I> {
    /// An empty address space.
    pub(super) fn new(iommu: I) -> DmaSpace<I> {
        DmaSpace {
            iommu,
            table: DmaTable::new(MAX_MAPS),
        }
    }

    /// Makes the memory of `map` reachable for the group, or adds a claim where it is already.
    pub(super) fn map(&mut self, session: SessionId, map: &DmaMap) -> Result<(), Errno> {
        let Some(fd) = &map.fd else { return Ok(()) };
        let stat = rustix::fs::fstat(fd)?;
        let memory = Memory {
            device: stat.st_dev,
            inode: stat.st_ino,
            file_offset: map.file_offset,
            flags: map.flags,
        };
        match self.table.check_insert(map.range) {
            Ok(()) => {
                self.iommu.map(map)?;
                let claims = Claims {
                    memory,
                    sessions: vec![session],
                };
                self.table
                    .insert(map.range, claims)
                    .map_err(DmaTableError::errno)
            }
            Err(DmaTableError::Overlap) => self.add_claim(session, map.range, memory),
            Err(error @ (DmaTableError::Full | DmaTableError::NotMapped)) => Err(error.errno()),
        }
    }

    fn add_claim(
        &mut self,
        session: SessionId,
        range: IovaRange,
        memory: Memory,
    ) -> Result<(), Errno> {
        let mut claims = self.table.remove(range).map_err(|_| Errno::EXIST)?;
        let same = claims.memory == memory && !claims.sessions.contains(&session);
        if same {
            claims.sessions.push(session);
        }
        self.table
            .insert(range, claims)
            .map_err(DmaTableError::errno)?;
        if same { Ok(()) } else { Err(Errno::EXIST) }
    }

    /// Ends the claim of `session` on `range`; the last one that goes makes it unreachable. A range that `session`
    /// does not claim was memory by messages: there is nothing to undo.
    pub(super) fn unmap(&mut self, session: SessionId, range: IovaRange) -> Result<(), Errno> {
        let Ok(mut claims) = self.table.remove(range) else {
            return Ok(());
        };
        let before = claims.sessions.len();
        claims.sessions.retain(|claimant| *claimant != session);
        let last = claims.sessions.is_empty() && before > 0;
        let result = if last {
            self.iommu.unmap(range)
        } else {
            Ok(())
        };
        if last && result.is_ok() {
            return Ok(());
        }
        if last {
            // Still mapped for all we know: keep the claim, so that nobody maps over it.
            claims.sessions.push(session);
        }
        self.table
            .insert(range, claims)
            .map_err(DmaTableError::errno)?;
        result
    }

    /// Ends every claim of `session`. Goes on after an error, and reports the first.
    pub(super) fn unmap_all(&mut self, session: SessionId) -> Result<(), Errno> {
        let ranges: Vec<IovaRange> = self.table.ranges().collect();
        ranges
            .into_iter()
            .map(|range| self.unmap(session, range))
            .fold(Ok(()), Result::and)
    }
}

#[cfg(test)]
mod tests;
