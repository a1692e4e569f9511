//! A5: DMA_UNMAP.

use protocol::Errno;

use crate::dma_map::dma_copy;
use crate::support::{Peer, Server, bytes, descriptors};

const UNMAP: u16 = 3;

/// A client with 0x1000..0x3000 and 0x3000..0x4000 mapped.
fn mapped(server: &Server) -> Peer {
    let peer = Peer::negotiated(server);
    peer.map(0x1000, 0x2000, &descriptors::memory(0x2000))
        .succeeded();
    peer.map(0x3000, 0x1000, &descriptors::memory(0x1000))
        .succeeded();
    peer
}

/// The request is answered with this errno, and both maps are still there.
fn refused(body: &[u8], errno: Errno) {
    let server = Server::start();
    let peer = mapped(&server);
    peer.request(UNMAP, body).failed(errno);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 2);
    peer.unmap(0x1000, 0x2000).succeeded();
    peer.unmap(0x3000, 0x1000).succeeded();
    server.is_unharmed_by(peer);
}

#[test]
fn u01_u17_u19_exact_unmap_echoes_and_frees_the_range() {
    let server = Server::start();
    let peer = mapped(&server);
    let body = bytes::dma_unmap(24, 0, 0x1000, 0x2000);
    assert_eq!(peer.request(UNMAP, &body).succeeded().body, body);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 1);
    peer.request(UNMAP, &body).failed(Errno::NOENT);
    peer.map(0x2000, 0x1000, &descriptors::memory(0x1000))
        .succeeded();
}

#[test]
fn u02_u03_short_payload_and_argsz() {
    refused(&bytes::dma_unmap(24, 0, 0x1000, 0x2000)[..8], Errno::INVAL);
    refused(&bytes::dma_unmap(24, 0, 0x1000, 0x2000)[..1], Errno::INVAL);
    refused(&bytes::dma_unmap(8, 0, 0x1000, 0x2000), Errno::INVAL);
    refused(&bytes::dma_unmap(23, 0, 0x1000, 0x2000), Errno::INVAL);
}

#[test]
fn u04_large_argsz_is_accepted() {
    let server = Server::start();
    let peer = mapped(&server);
    peer.request(UNMAP, &bytes::dma_unmap(2 << 20, 0, 0x1000, 0x2000))
        .succeeded();
}

#[test]
fn u05_to_u08_anything_but_an_exact_range_is_refused() {
    refused(&bytes::dma_unmap(24, 0, 0x9000, 0x1000), Errno::NOENT);
    refused(&bytes::dma_unmap(24, 0, 0x1000, 0x1000), Errno::NOENT);
    refused(&bytes::dma_unmap(24, 0, 0x2000, 0x1000), Errno::NOENT);
    refused(&bytes::dma_unmap(24, 0, 0x1000, 0x3000), Errno::NOENT);
    refused(&bytes::dma_unmap(24, 0, 0x1000, 0), Errno::INVAL);
    refused(
        &bytes::dma_unmap(24, 0, u64::MAX - 0xfff, 0x2000),
        Errno::INVAL,
    );
}

#[test]
fn u09_u11_unmap_all() {
    let server = Server::start();
    let peer = mapped(&server);
    let body = bytes::dma_unmap(24, 2, 0, 0);
    assert_eq!(peer.request(UNMAP, &body).succeeded().body, body);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
    peer.request(UNMAP, &body).succeeded();
}

#[test]
fn u10_u12_u13_u14_u15_other_flags_are_refused() {
    refused(&bytes::dma_unmap(24, 2, 0x1000, 0), Errno::INVAL);
    refused(&bytes::dma_unmap(24, 2, 0, 0x2000), Errno::INVAL);
    for flags in [1, 3, 4, 0x8000_0000] {
        refused(&bytes::dma_unmap(24, flags, 0x1000, 0x2000), Errno::INVAL);
    }
    let mut dirty = bytes::dma_unmap(40, 1, 0x1000, 0x2000);
    dirty.extend_from_slice(&4096u64.to_ne_bytes());
    dirty.extend_from_slice(&u64::MAX.to_ne_bytes());
    refused(&dirty, Errno::INVAL);
}

#[test]
fn u20_unmap_without_reply_is_executed() {
    let server = Server::start();
    let peer = mapped(&server);
    let body = bytes::dma_unmap(24, 0, 0x1000, 0x2000);
    peer.send(&bytes::message(1, UNMAP, bytes::NO_REPLY, &body));
    peer.is_in_step();
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 1);
}

#[test]
fn m40_unmapped_memory_is_out_of_the_devices_reach() {
    let server = Server::start();
    let peer = mapped(&server);
    peer.region_write(7, 4, &[4]).succeeded();
    assert_eq!(dma_copy(&peer, 0x1000, 0x3000, 16), 1);
    peer.unmap(0x1000, 0x2000).succeeded();
    assert_eq!(dma_copy(&peer, 0x1000, 0x3000, 16), 2 | 14 << 16);
}
