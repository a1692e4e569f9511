//! The server process under test, a raw client, and the bytes they exchange.

mod server;
mod peer;
pub(crate) mod bytes;
pub(crate) mod descriptors;

pub(crate) use peer::{Peer, Reply};
pub(crate) use server::{PATIENCE, Server};
