//! The server process under test. The client that it meets is `harness::raw_peer`.

mod server;

pub(crate) use harness::raw_peer::{
    PATIENCE, RawPeer as Peer, Received as Reply, bytes, descriptors,
};
pub(crate) use server::Server;
