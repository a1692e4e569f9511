//! Requests that make the device do something: reads, writes, maps, reset.

use super::Client;
use super::engine::Call;
use super::error::ClientError;
use super::slow::SlowAnswer;
use crate::header::CommandCode;
use crate::ids::{IovaRange, RegionIndex};
use crate::limits;
use crate::messages::dma::{DmaMap, DmaMapFlags, DmaUnmap};
use crate::messages::region::RegionAccess;
use crate::messages::write_multi::{self, WriteMultiEntry};
use std::os::fd::BorrowedFd;
use std::time::Duration;

impl Client {
    /// Reads a region from `offset` on. On an error `data` is as it was, or filled in part when it takes several
    /// messages.
    ///
    /// # Errors
    /// See [`ClientError`]; fewer bytes than asked are an error, too.
    pub fn region_read(
        &self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), ClientError> {
        let command = CommandCode::REGION_READ;
        let mut at = offset;
        for chunk in data.chunks_mut(self.chunk_bytes()) {
            let access = access(command, region, at, chunk.len())?;
            let head = access.to_bytes();
            let call = self.access(command, &head);
            self.engine.call(&call, |body, _fds| {
                chunk.copy_from_slice(access.decode_read_reply(body)?);
                Ok(())
            })?;
            at = at.saturating_add(u64::from(access.count));
        }
        Ok(())
    }

    /// Writes a region from `offset` on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_write(
        &self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let command = CommandCode::REGION_WRITE;
        let mut at = offset;
        for chunk in data.chunks(self.chunk_bytes()) {
            let access = access(command, region, at, chunk.len())?;
            let head = access.to_bytes();
            let call = Call {
                data: chunk,
                ..self.access(command, &head)
            };
            self.engine
                .call(&call, |body, _fds| access.check_write_reply(body))?;
            at = at.saturating_add(u64::from(access.count));
        }
        Ok(())
    }

    /// Starts a write that may take as long as a reset, for example function-level reset through config space. Does
    /// not wait for the answer; see [`Self::start_reset`].
    ///
    /// # Errors
    /// See [`ClientError`]; a write of more bytes than the server takes in one message is unsendable.
    pub fn start_region_write(
        &self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let command = CommandCode::REGION_WRITE;
        if data.len() > self.chunk_bytes() {
            let what = "the server takes fewer bytes in one message";
            return Err(ClientError::Unsendable { command, what });
        }
        let access = access(command, region, offset, data.len())?;
        let head = access.to_bytes();
        let call = Call {
            data,
            time: self.reset_deadline,
            ..self.call(command, &head)
        };
        self.engine.start_slow(&call, SlowAnswer::Write(access))
    }

    /// Writes a region without waiting (No_reply). The server executes it before every later request; whether it
    /// failed is not known. Only where the device cannot see the order against accesses to mapped memory.
    ///
    /// # Errors
    /// The device is lost; a socket that stays full is a deadline like any other.
    pub fn region_write_posted(
        &self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let command = CommandCode::REGION_WRITE;
        let mut at = offset;
        for chunk in data.chunks(self.chunk_bytes()) {
            let access = access(command, region, at, chunk.len())?;
            let head = access.to_bytes();
            self.engine.post(&Call {
                data: chunk,
                ..self.access(command, &head)
            })?;
            at = at.saturating_add(u64::from(access.count));
        }
        Ok(())
    }

    /// Does several small writes in one message; returns how many the server did.
    ///
    /// # Errors
    /// See [`ClientError`]; unsendable when `write_multiple` was not agreed, or an entry has more than 8 bytes.
    pub fn region_write_multi(&self, entries: &[WriteMultiEntry<'_>]) -> Result<u64, ClientError> {
        let command = CommandCode::REGION_WRITE_MULTI;
        let unsendable = |what| ClientError::Unsendable { command, what };
        if !self.engine.server().write_multiple {
            return Err(unsendable("the server did not agree to write_multiple"));
        }
        let mut head = Vec::new();
        write_multi::encode_request(entries, &mut head)
            .map_err(|_| unsendable("an entry has more than 8 bytes"))?;
        if head.len() > self.chunk_bytes() {
            return Err(unsendable("too many entries for one message"));
        }
        let call = self.access(command, &head);
        self.engine.call(&call, |body, _fds| {
            write_multi::decode_reply(body, entries.len())
        })
    }

    /// Lets the device use memory: the file of `backing` from its offset on, or, without one, by messages only.
    ///
    /// # Errors
    /// See [`ClientError`]; on any of them the device must not be started with this range.
    pub fn dma_map(
        &self,
        range: IovaRange,
        flags: DmaMapFlags,
        backing: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), ClientError> {
        let command = CommandCode::DMA_MAP;
        let most = usize::try_from(self.engine.server().max_dma_maps).unwrap_or(usize::MAX);
        if backing.is_some() {
            self.check_takes_fds(command)?;
        }
        let mut head = Vec::new();
        DmaMap {
            range,
            file_offset: backing.map_or(0, |(_, offset)| offset),
            flags,
            fd: None,
        }
        .encode(&mut head);
        let fd = backing.map(|(fd, _)| fd);
        let call = Call {
            fds: fd.as_slice(),
            time: self.access_deadline.saturating_add(map_time(range)),
            ..self.call(command, &head)
        };
        // Before it is sent: the server may use the map before we read the answer.
        let inserted = {
            let mut maps = self.engine.dma.maps();
            if maps.len() >= most {
                let what = "the server takes no more maps";
                return Err(ClientError::Unsendable { command, what });
            }
            maps.insert(range, flags)
        };
        let result = self.engine.call(&call, |_body, _fds| Ok(()));
        if result.is_err() && inserted {
            self.engine.dma.maps().remove(&range);
        }
        result
    }

    /// Takes memory away from the device: exactly one earlier map.
    ///
    /// # Errors
    /// See [`ClientError`]; on any of them the memory counts as shared until the connection has ended.
    pub fn dma_unmap(&self, range: IovaRange) -> Result<(), ClientError> {
        self.unmap(DmaUnmap::Range(range))?;
        self.engine.dma.maps().remove(&range);
        Ok(())
    }

    /// Takes all memory away from the device.
    ///
    /// # Errors
    /// As [`Self::dma_unmap`].
    pub fn dma_unmap_all(&self) -> Result<(), ClientError> {
        self.unmap(DmaUnmap::All)?;
        self.engine.dma.maps().clear();
        Ok(())
    }

    fn unmap(&self, unmap: DmaUnmap) -> Result<(), ClientError> {
        let mut head = Vec::new();
        unmap.encode(&mut head);
        let call = self.call(CommandCode::DMA_UNMAP, &head);
        self.engine
            .call(&call, |body, _fds| unmap.check_reply(body))
    }

    /// Starts a reset of the device; DMA maps and interrupts stay. Does not wait for the answer: until it has come,
    /// every other request fails with [`ClientError::Busy`]. Whoever reads the socket next takes it; how it ended says
    /// [`Self::take_reset_outcome`].
    ///
    /// # Errors
    /// See [`ClientError`]; busy while another one is in flight.
    pub fn start_reset(&self) -> Result<(), ClientError> {
        let call = Call {
            time: self.reset_deadline,
            ..self.call(CommandCode::DEVICE_RESET, &[])
        };
        self.engine.start_slow(&call, SlowAnswer::Empty)
    }

    /// Is a reset, or a write that was started like one, not answered yet?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.engine.is_busy()
    }

    /// How the last reset, or write that was started like one, ended. Says so once.
    #[must_use]
    pub fn take_reset_outcome(&self) -> Option<Result<(), ClientError>> {
        self.engine.take_slow_outcome()
    }

    /// Waits until no reset is in flight. Not for a virtual CPU.
    ///
    /// # Errors
    /// How the last one ended; the device is lost when it takes longer than a reset may.
    pub fn finish_reset(&self) -> Result<(), ClientError> {
        self.engine.finish_slow()
    }

    /// Resets the device and waits for it. Not for a virtual CPU.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reset(&self) -> Result<(), ClientError> {
        self.start_reset()?;
        self.finish_reset()
    }

    /// A request that keeps its own deadline.
    pub(super) fn call<'a>(&self, command: CommandCode, head: &'a [u8]) -> Call<'a> {
        Call {
            command,
            head,
            data: &[],
            fds: &[],
            time: self.access_deadline,
            minded: false,
        }
    }

    /// A request whose deadline the event loop minds, if there is one.
    fn access<'a>(&self, command: CommandCode, head: &'a [u8]) -> Call<'a> {
        Call {
            minded: true,
            ..self.call(command, head)
        }
    }

    pub(super) fn check_takes_fds(&self, command: CommandCode) -> Result<(), ClientError> {
        if self.engine.server().max_msg_fds == 0 {
            let what = "the server takes no file descriptors";
            return Err(ClientError::Unsendable { command, what });
        }
        Ok(())
    }

    /// Bytes of data that the server takes in one message; never 0.
    pub(super) fn chunk_bytes(&self) -> usize {
        let most = self.engine.server().max_data_xfer_size;
        usize::try_from(most.min(limits::MAX_DATA_XFER_BYTES))
            .unwrap_or(1)
            .max(1)
    }
}

fn access(
    command: CommandCode,
    region: RegionIndex,
    offset: u64,
    bytes: usize,
) -> Result<RegionAccess, ClientError> {
    let count = u32::try_from(bytes).ok();
    count
        .filter(|count| offset.checked_add(u64::from(*count)).is_some())
        .map(|count| RegionAccess {
            region,
            offset,
            count,
        })
        .ok_or(ClientError::Unsendable {
            command,
            what: "the range runs past the end of the address space",
        })
}

/// What the server's kernel may take to pin this much memory.
fn map_time(range: IovaRange) -> Duration {
    let gibibytes = range.len().div_ceil(1 << 30);
    let gibibytes = u32::try_from(gibibytes).unwrap_or(u32::MAX);
    let for_size = limits::DMA_MAP_TIME_PER_GIB.saturating_mul(gibibytes);
    limits::DMA_MAP_TIME.saturating_add(for_size)
}
