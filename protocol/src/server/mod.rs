//! The server's side of one connection, without the device.
//!
//! Spec: vfio-user, "Socket Disconnection Behavior", "VFIO_USER_VERSION", "Commands".
//! [`Connection`] negotiates, receives, decodes and refuses by itself and hands out what is left as [`Event`]s; the
//! caller runs each request against its device and answers it once. [`session`] decides, as a pure state machine.
//!
//! ```ignore
//! let mut connection = Connection::new(socket, ServerConfig::standard())?;
//! loop {
//!     match connection.next_event() {
//!         Event::Request(Request { token, command }) => match command {
//!             Command::RegionRead(access) => { /* fill `data`; a refusal is Reply::Error(errno) */
//!                 connection.reply(token, Reply::RegionRead { region, offset, data: &data })?; }
//!             Command::RegionWrite(write) => { /* copy write.data before a backend that needs DMA messages */ }
//!             ...
//!         },
//!         Event::Refused(refusal) => { /* already answered: log it once per kind */ }
//!         Event::Closed(reason) => break, // forget the client: maps, eventfds
//!     }
//! }
//! ```
//!
//! `next_event` blocks for as long as the client is idle. To end it from elsewhere, keep [`Connection::socket`] and
//! call `shut_down` on it; or poll the socket first, ask `has_begun`, and mind `negotiation_time_left`.
//! Not here: what depends on the device (region and vector bounds, overlap of maps, kinds of files).
//! Limits: [`ServerConfig`], `MAX_STASHED_REQUESTS`, `MAX_DMA_MESSAGES`.

mod connection;
mod message_dma;
mod answers;
pub mod session;
mod config;

pub use answers::RequestToken;
pub use config::{CloseReason, ServerConfig, ServerDeadlines};
pub use connection::{Connection, Event, Request};
pub use message_dma::DmaError;
