//! From a decoded request to the device and back to a reply.
//!
//! One line per command. Decoding has judged what can be judged without a device; what needs the device's regions, its
//! interrupts or the session's DMA maps is judged here and in `checks`. The backend sees checked requests only.
//! Limits: `max_dma_maps` of the session; a read is at most `MAX_DATA_XFER_BYTES`.

use std::os::fd::AsFd;

use protocol::SetIrqs;
use protocol::messages::region::RegionAccess;
use protocol::messages::region_info::{RegionInfoReply, RegionInfoRequest};
use protocol::{
    BadField, Command, DeviceInfo, DmaMap, DmaUnmap, Errno, IovaRange, IrqIndex, IrqInfo,
    RegionFlags, RegionIndex, Reply, limits,
};

use crate::backend::{Backend, MessageDma};
use crate::dma::DmaTable;
use crate::server::checks;

/// The state of one client's session with one device.
pub(super) struct Dispatcher<'d> {
    backend: &'d mut dyn Backend,
    maps: DmaTable<()>,
    /// What the last REGION_READ read. Grows to the largest read of the session.
    scratch: Vec<u8>,
}

/// One register write, copied out of its message: the connection is free for DMA messages while it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    pub(super) region: RegionIndex,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
}

/// A request that was not executed, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// What the client is told, and the field and value for the log.
    pub(super) bad: BadField,
    /// Client memory may be reachable in a way that the client does not know of: the session must end.
    pub(super) end_session: bool,
}

impl From<BadField> for Refused {
    fn from(bad: BadField) -> Refused {
        Refused {
            bad,
            end_session: false,
        }
    }
}

impl<'d> Dispatcher<'d> {
    /// A session that has mapped nothing yet.
    pub(super) fn new(backend: &'d mut dyn Backend, max_dma_maps: usize) -> Dispatcher<'d> {
        Dispatcher {
            backend,
            maps: DmaTable::new(max_dma_maps),
            scratch: Vec::new(),
        }
    }

    /// The device, for what is no request of the client.
    pub(super) fn backend(&mut self) -> &mut dyn Backend {
        self.backend
    }

    /// Executes one request, other than the two that write: those are `region_write` and `region_write_multi`.
    pub(super) fn dispatch(&mut self, command: Command<'_>) -> Result<Reply<'_>, Refused> {
        if !matches!(
            command,
            Command::Version(_) | Command::DmaMap(_) | Command::DmaUnmap(_)
        ) {
            self.await_device()?;
        }
        match command {
            Command::Version(_) => {
                Err(BadField::invalid("command (VERSION a second time)", 1u32).into())
            }
            Command::DmaMap(map) => self.dma_map(map),
            Command::DmaUnmap(unmap) => self.dma_unmap(unmap),
            Command::DeviceInfo => Ok(self.device_info()),
            Command::RegionInfo(request) => self.region_info(request),
            Command::RegionIoFds(request) => {
                let region = checks::existing_region(self.backend.describe(), request.index)?;
                Ok(Reply::RegionIoFds {
                    index: request.index,
                    entries: &region.io_fds.entries,
                    argsz: request.argsz,
                    fds: &region.io_fds.fds,
                })
            }
            Command::IrqInfo(index) => self.irq_info(index),
            Command::SetIrqs(request) => self.set_irqs(request),
            Command::RegionRead(access) => self.region_read(access),
            Command::DeviceReset => self.reset(),
            Command::DeviceFeature(_) | Command::MigDataRead(_) | Command::MigDataWrite(_) => {
                Err(unsupported("command (the device cannot migrate)"))
            }
            Command::RegionWrite(_) | Command::RegionWriteMulti(_) => {
                Err(unsupported("command (writes take another way)"))
            }
        }
    }

    /// Nothing is said of a device, and nothing done with it, before it is open.
    fn await_device(&mut self) -> Result<(), Refused> {
        let opened = self.backend.opened();
        opened.map_err(|errno| device_refused("command (the device is not open)", 0u32, errno))
    }

    fn device_info(&self) -> Reply<'static> {
        Reply::DeviceInfo(DeviceInfo {
            reset: self.backend.describe().reset,
            pci: true,
            num_regions: limits::PCI_REGIONS,
            num_irqs: limits::PCI_IRQ_INDEXES,
        })
    }

    fn region_info(&self, request: RegionInfoRequest) -> Result<Reply<'_>, Refused> {
        let region = checks::region(self.backend.describe(), request.index)?;
        let mut flags = region.flags & (RegionFlags::READ | RegionFlags::WRITE);
        let fd = region.mmap_fd.as_ref().filter(|_| !region.areas.is_empty());
        flags.set(RegionFlags::MMAP, fd.is_some());
        let info = RegionInfoReply {
            index: request.index,
            flags,
            size: region.size,
            offset: region.mmap_offset,
            areas: &region.areas,
        };
        Ok(Reply::RegionInfo {
            info,
            argsz: request.argsz,
            fd: fd.map(AsFd::as_fd),
        })
    }

    fn irq_info(&self, index: IrqIndex) -> Result<Reply<'static>, Refused> {
        let irq = self
            .backend
            .describe()
            .irq(index)
            .ok_or(BadField::invalid("index", index.0))?;
        Ok(Reply::IrqInfo(IrqInfo {
            index,
            flags: irq.flags,
            count: irq.count,
        }))
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<Reply<'static>, Refused> {
        let irq = self
            .backend
            .describe()
            .irq(request.index)
            .ok_or(BadField::invalid("index", request.index.0))?;
        if request.disables_index() && irq.count == 0 {
            return Ok(Reply::Done);
        }
        let request = checks::irqs(irq, request)?;
        let index = request.index.0;
        self.backend
            .set_irqs(request)
            .map_err(|errno| device_refused("index", index, errno))?;
        Ok(Reply::Done)
    }

    fn region_read(&mut self, access: RegionAccess) -> Result<Reply<'_>, Refused> {
        let RegionAccess {
            region,
            offset,
            count,
        } = access;
        let target = checks::Target {
            region,
            offset,
            count: count.into(),
            needs: RegionFlags::READ,
        };
        checks::access(self.backend.describe(), target)?;
        let len = usize::try_from(count).map_err(|_| BadField::invalid("count", count))?;
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        let data = self
            .scratch
            .get_mut(..len)
            .ok_or(BadField::invalid("count", count))?;
        if len > 0 {
            self.backend
                .region_read(region, offset, data)
                .map_err(|errno| device_refused("offset", offset, errno))?;
        }
        Ok(Reply::RegionRead {
            region,
            offset,
            data,
        })
    }

    /// REGION_WRITE.
    pub(super) fn region_write(
        &mut self,
        write: Write<'_>,
        messages: &mut dyn MessageDma,
    ) -> Result<Reply<'static>, Refused> {
        let Write {
            region,
            offset,
            data,
        } = write;
        let count = u32::try_from(data.len()).map_err(|_| BadField::invalid("count", u32::MAX))?;
        self.await_device()?;
        checks::access(self.backend.describe(), target(write))?;
        if !data.is_empty() {
            self.backend
                .region_write(region, offset, data, messages)
                .map_err(|errno| device_refused("offset", offset, errno))?;
        }
        Ok(Reply::RegionWrite(RegionAccess {
            region,
            offset,
            count,
        }))
    }

    /// REGION_WRITE_MULTI. All writes are judged before the first is done: a message with one bad write does nothing.
    pub(super) fn region_write_multi<'w>(
        &mut self,
        writes: impl Iterator<Item = Write<'w>> + Clone,
        messages: &mut dyn MessageDma,
    ) -> Result<Reply<'static>, Refused> {
        self.await_device()?;
        for write in writes.clone() {
            checks::access(self.backend.describe(), target(write))?;
        }
        let mut done = 0u64;
        for write in writes {
            self.region_write(write, messages)?;
            done = done.saturating_add(1);
        }
        Ok(Reply::RegionWriteMulti(done))
    }

    fn reset(&mut self) -> Result<Reply<'static>, Refused> {
        if !self.backend.describe().reset {
            return Err(unsupported("command (the device cannot be reset)"));
        }
        self.backend
            .reset()
            .map_err(|errno| device_refused("command", 13u32, errno))?;
        Ok(Reply::Done)
    }

    fn dma_map(&mut self, map: DmaMap) -> Result<Reply<'static>, Refused> {
        let start = map.range.start().0;
        self.maps
            .check_insert(map.range)
            .map_err(|error| BadField::invalid("address", start).with_errno(error.errno()))?;
        let map = checks::memory(map)?;
        self.backend
            .dma_map(&map)
            .map_err(|errno| device_refused("address", start, errno))?;
        self.maps
            .insert(map.range, ())
            .map_err(|error| BadField::invalid("address", start).with_errno(error.errno()))?;
        Ok(Reply::Done)
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<Reply<'static>, Refused> {
        match unmap {
            DmaUnmap::Range(range) => self.unmap_range(range)?,
            DmaUnmap::All => {
                while let Some(range) = self.maps.first() {
                    self.unmap_range(range)?;
                }
            }
        }
        Ok(Reply::DmaUnmap(unmap))
    }

    fn unmap_range(&mut self, range: IovaRange) -> Result<(), Refused> {
        let start = range.start().0;
        if !self.maps.contains_exactly(range) {
            return Err(BadField::invalid("address", start)
                .with_errno(Errno::NOENT)
                .into());
        }
        self.backend.dma_unmap(range).map_err(|errno| Refused {
            bad: BadField::invalid("address (the device kept the map)", start).with_errno(errno),
            end_session: true,
        })?;
        self.maps.remove(range).map_err(|error| {
            BadField::invalid("address", start)
                .with_errno(error.errno())
                .into()
        })
    }
}

/// The request was in order, and the device said no.
fn device_refused(field: &'static str, value: impl Into<u64>, errno: Errno) -> Refused {
    BadField::invalid(field, value).with_errno(errno).into()
}

fn unsupported(field: &'static str) -> Refused {
    BadField::invalid(field, 0u32)
        .with_errno(Errno::NOTSUP)
        .into()
}

fn target(write: Write<'_>) -> checks::Target {
    let count = u64::try_from(write.data.len()).unwrap_or(u64::MAX);
    checks::Target {
        region: write.region,
        offset: write.offset,
        count,
        needs: RegionFlags::WRITE,
    }
}

#[cfg(test)]
mod tests;
