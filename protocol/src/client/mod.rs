//! The client's side of one connection: what a VMM does with a device.
//!
//! Spec: vfio-user, all commands of a client, "VFIO_USER_DMA_READ/WRITE" as the answering side.
//! [`Client`] has no thread of its own. Several threads may have requests in flight; one of those that wait reads for
//! all (`engine.rs`, `in_flight.rs`). An event loop polls [`Client::poll_fd`] and calls [`Client::service`].
//! Every answer is hostile: `requests.rs` and `queries.rs` hold it against what was asked.
//!
//! A deadline that passes, a stream that ends or breaks, an answer to nothing: the device is lost, every call fails at
//! once from then on, and the connection is shut down. An error reply, or an answer whose contents make no sense,
//! fails its own call only.
//!
//! A reset, or another request with a long deadline, is sent without waiting for its answer. Until that has come, every
//! other request fails at once with [`ClientError::Busy`]: a virtual CPU is never held by it.
//!
//! Not here: what the file descriptor of a region is (checked where it is mapped), reconnecting.
//! Limits: [`ClientConfig`], `MAX_IN_FLIGHT`, `MAX_SERVED_PER_CALL`, those of every message.

mod requests;
mod interrupts;
mod queries;
mod negotiate;
mod slow;
mod batch;
mod engine;
mod lead;
mod service;
mod serve;
mod in_flight;
mod session;
mod dma_table;
mod counters;
mod error;

pub use counters::MessageCounters;
pub use error::{ClientError, LostCause};

use crate::ids::Iova;
use crate::limits;
use crate::messages::version::Capabilities;
use engine::Engine;
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Guest memory, for a server that reaches it by message.
pub trait DmaHandler: Send + Sync {
    /// Fills `data` from `address` on. The range lies in readable maps; it may cross from one into the next.
    ///
    /// # Errors
    /// The errno that the server is told.
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` from `address` on. The range lies in writable maps; it may cross from one into the next.
    ///
    /// # Errors
    /// The errno that the server is told.
    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno>;
}

/// What a client announces, answers, and how long it waits.
#[derive(Clone)]
pub struct ClientConfig {
    /// What the server is told; the twin socket is offered when there is a handler.
    pub capabilities: Capabilities,
    /// Answers DMA_READ and DMA_WRITE. Without one they are refused with ENOTSUP.
    pub dma_handler: Option<Arc<dyn DmaHandler>>,
    /// How long an access, a query and the negotiation may take.
    pub access_deadline: Duration,
    /// How long a reset may take.
    pub reset_deadline: Duration,
}

impl ClientConfig {
    /// The limits of this crate, without message-mode DMA.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            capabilities: Capabilities::OURS,
            dma_handler: None,
            access_deadline: limits::ACCESS_DEADLINE,
            reset_deadline: limits::RESET_DEADLINE,
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("capabilities", &self.capabilities)
            .field("dma_handler", &self.dma_handler.is_some())
            .field("access_deadline", &self.access_deadline)
            .field("reset_deadline", &self.reset_deadline)
            .finish()
    }
}

/// One device behind a vfio-user socket.
#[derive(Debug)]
pub struct Client {
    engine: Engine,
    access_deadline: Duration,
    reset_deadline: Duration,
}

impl Client {
    /// Negotiates with the server at the other end of `socket`, within the access deadline.
    ///
    /// # Errors
    /// It is no socket, nothing answers, or the answer cannot be agreed to.
    pub fn connect(socket: OwnedFd, config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self {
            access_deadline: config.access_deadline,
            reset_deadline: config.reset_deadline,
            engine: negotiate::connect(socket, config)?,
        })
    }

    /// What the server announced, and we offered as well.
    #[must_use]
    pub fn server_capabilities(&self) -> &Capabilities {
        self.engine.server()
    }

    /// Becomes readable when [`Self::service`] has something to do: the server closed, or asks for DMA, or it is time
    /// to look for late requests.
    ///
    /// Answers to requests do not make it readable unless the server can send requests on the same socket.
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.engine.poll_fd()
    }

    /// Answers what the server asked, and notices that it closed. Never waits for the server to send something.
    ///
    /// # Errors
    /// The device is lost.
    pub fn service(&self) -> Result<(), ClientError> {
        self.engine.service().map_err(ClientError::Lost)
    }

    /// From now on reads and writes of regions have no timer of their own, which makes them a tenth faster: their
    /// deadline holds only, to within [`limits::WATCH_PERIOD`], while another thread polls [`Self::poll_fd`] and calls
    /// [`Self::service`]. Queries, maps and resets keep theirs. A twin socket is served by [`Self::service`] alone, and where there
    /// is one, a server that ends only the main socket is noticed within that period, too. For a
    /// VMM, once such a thread runs; one that itself accesses the device will not do.
    ///
    /// # Errors
    /// The kernel gives no timer; nothing has changed. A second call is refused.
    pub fn rely_on_service(&self) -> Result<(), ClientError> {
        self.engine.rely_on_service().map_err(ClientError::Watch)
    }

    /// Why the device is lost, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<LostCause> {
        self.engine.lost()
    }

    /// Ends the connection; every call in flight and every later one fails.
    pub fn shutdown(&self) {
        self.engine.lose(session::Event::Shutdown);
    }

    /// How many messages went over the connection so far.
    #[must_use]
    pub fn counters(&self) -> MessageCounters {
        self.engine.counters()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shutdown();
    }
}
