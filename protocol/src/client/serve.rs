//! The server's requests: DMA_READ and DMA_WRITE, and nothing else.
//!
//! What is asked is held against the maps that were sent before anybody touches memory.

use super::DmaHandler;
use super::dma_table::DmaTable;
use crate::frame::Frame;
use crate::header::HeaderFlags;
use crate::ids::Iova;
use crate::limits;
use crate::messages::dma::DmaMapFlags;
use crate::messages::dma_access::{self, DmaRequest};
use rustix::io::Errno;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Answers requests of the server.
pub(super) struct Server {
    handler: Option<Arc<dyn DmaHandler>>,
    maps: Mutex<DmaTable>,
    scratch: Mutex<Scratch>,
}

/// Buffers that are kept from request to request.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    head: Vec<u8>,
    data: Vec<u8>,
}

/// An answer, ready to be sent.
pub(super) struct Served<'a> {
    pub(super) flags: HeaderFlags,
    pub(super) error: u32,
    pub(super) head: &'a [u8],
    pub(super) data: &'a [u8],
}

impl Server {
    pub(super) fn new(handler: Option<Arc<dyn DmaHandler>>) -> Self {
        Self {
            handler,
            maps: Mutex::default(),
            scratch: Mutex::default(),
        }
    }

    pub(super) fn has_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// The maps that the server was sent.
    pub(super) fn maps(&self) -> MutexGuard<'_, DmaTable> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a request asks, or refuses it.
    pub(super) fn serve<'a>(&self, frame: &Frame<'_>, scratch: &'a mut Scratch) -> Served<'a> {
        scratch.head.clear();
        scratch.data.clear();
        match self.run(frame, scratch) {
            Ok(()) => Served {
                flags: HeaderFlags::REPLY,
                error: 0,
                head: &scratch.head,
                data: &scratch.data,
            },
            Err(errno) => Served {
                flags: HeaderFlags::REPLY_ERROR,
                error: errno.raw_os_error().unsigned_abs(),
                head: &[],
                data: &[],
            },
        }
    }

    fn run(&self, frame: &Frame<'_>, scratch: &mut Scratch) -> Result<(), Errno> {
        if !frame.fds.is_empty() || frame.fds_on_body {
            return Err(Errno::INVAL);
        }
        let most = limits::MAX_DATA_XFER_BYTES;
        let request =
            DmaRequest::decode(frame.header.command, frame.body, most).map_err(|bad| bad.errno)?;
        let handler = self.handler.as_ref().ok_or(Errno::NOTSUP)?;
        match request {
            DmaRequest::Read { address, count } => {
                let bytes = usize::try_from(count).map_err(|_| Errno::INVAL)?;
                // Held while memory is touched: once a map is gone from the table, nobody touches it.
                let maps = self.maps();
                maps.check(address, bytes, DmaMapFlags::READ)?;
                scratch.data.resize(bytes, 0);
                if count > 0 {
                    handler.read(address, &mut scratch.data)?;
                }
                drop(maps);
                answer_head(address, bytes, scratch);
            }
            DmaRequest::Write { address, data } => {
                let maps = self.maps();
                maps.check(address, data.len(), DmaMapFlags::WRITE)?;
                if !data.is_empty() {
                    handler.write(address, data)?;
                }
                drop(maps);
                answer_head(address, data.len(), scratch);
            }
        }
        Ok(())
    }
}

fn answer_head(address: Iova, bytes: usize, scratch: &mut Scratch) {
    let count = u64::try_from(bytes).unwrap_or(u64::MAX);
    dma_access::encode_head(address, count, &mut scratch.head);
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("handler", &self.handler.is_some())
            .field("maps", &self.maps)
            .finish_non_exhaustive()
    }
}
