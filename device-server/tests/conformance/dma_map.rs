//! A4: DMA_MAP.

use std::os::fd::AsFd;

use protocol::Errno;
use rustix::fs::{OFlags, SealFlags};

use crate::support::{Peer, Server, bytes, descriptors};

const MAP: u16 = 2;
const READ_WRITE: u32 = 3;

/// A request without a descriptor is answered with this errno, and nothing is mapped by it.
fn refused(body: &[u8], errno: Errno) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(MAP, body).failed(errno);
    peer.request(3, &bytes::dma_unmap(24, 2, 0, 0)).succeeded();
    server.is_unharmed_by(peer);
}

/// A request for one page at 0x1000 with this descriptor is answered with this errno, and the descriptor closed.
fn refused_with(fd: impl AsFd, flags: u32, offset: u64, errno: Errno) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let body = bytes::dma_map(32, flags, offset, 0x1000, 0x1000);
    peer.request_with(MAP, &body, &[fd.as_fd()]).failed(errno);
    assert_eq!(server.fds(), before);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
    peer.unmap(0x1000, 0x1000).failed(Errno::NOENT);
    server.is_unharmed_by(peer);
}

#[test]
fn m01_memory_is_mapped_and_its_descriptor_closed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    peer.map(0x10_0000, 0x4000, &descriptors::memory(0x4000))
        .succeeded();
    assert_eq!(server.fds(), before);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 1);
}

#[test]
fn m02_map_without_descriptor_is_accepted() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(MAP, &bytes::dma_map(32, 1, 0, 0x1000, 0x1000))
        .succeeded();
    peer.unmap(0x1000, 0x1000).succeeded();
}

#[test]
fn m03_m04_m05_argsz_and_payload() {
    refused(
        &bytes::dma_map(31, READ_WRITE, 0, 0x1000, 0x1000),
        Errno::INVAL,
    );
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, 0x1000, 0x1000)[..31],
        Errno::INVAL,
    );
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(MAP, &bytes::dma_map(4096, READ_WRITE, 0, 0x1000, 0x1000))
        .succeeded();
}

#[test]
fn m06_to_m10_sizes_that_make_no_range() {
    refused(&bytes::dma_map(32, READ_WRITE, 0, 0x1000, 0), Errno::INVAL);
    refused_with(descriptors::memory(0x1000), 0, 0, Errno::INVAL);
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, u64::MAX - 0xfff, 0x2000),
        Errno::INVAL,
    );
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, u64::MAX - 0xfff, 0x1000),
        Errno::INVAL,
    );
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, 0, u64::MAX),
        Errno::INVAL,
    );
    refused(&bytes::dma_map(32, READ_WRITE, 0, 0, 1 << 50), Errno::NOSPC);
}

#[test]
fn m11_m12_m13_what_is_not_page_aligned_is_refused() {
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, 0x1001, 0x1000),
        Errno::INVAL,
    );
    refused(
        &bytes::dma_map(32, READ_WRITE, 0, 0x1000, 0x1001),
        Errno::INVAL,
    );
    refused_with(descriptors::memory(0x4000), READ_WRITE, 0x800, Errno::INVAL);
}

#[test]
fn m14_offset_that_overflows_is_refused() {
    refused_with(
        descriptors::memory(0x4000),
        READ_WRITE,
        u64::MAX - 0xfff,
        Errno::INVAL,
    );
    refused_with(
        descriptors::memory(0x4000),
        READ_WRITE,
        1 << 63,
        Errno::INVAL,
    );
}

#[test]
fn m15_offset_without_descriptor_is_ignored() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(MAP, &bytes::dma_map(32, 3, 0x5000, 0x1000, 0x1000))
        .succeeded();
    peer.unmap(0x1000, 0x1000).succeeded();
}

#[test]
fn m41_map_whose_reply_cannot_be_sent_is_undone() {
    let server = Server::start();
    let idle = server.fds();
    for _ in 0..20 {
        let peer = Peer::negotiated(&server);
        let body = bytes::dma_map(32, 3, 0, 0x1000, 0x1000);
        let memory = descriptors::memory(0x1000);
        peer.send_with_fds(&bytes::message(1, MAP, 0, &body), &[memory.as_fd()]);
    }
    Peer::negotiated(&server).is_in_step();
    server.settles_at_fds(idle);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
}

#[test]
fn m16_m17_m18_overlaps_are_refused_and_neighbours_accepted() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let memory = descriptors::memory(0x10000);
    peer.map(0x4000, 0x4000, &memory).succeeded();
    let before = server.fds();
    for (address, size) in [
        (0x4000, 0x4000),
        (0x5000, 0x1000),
        (0x3000, 0x2000),
        (0x7000, 0x2000),
        (0x3000, 0x6000),
    ] {
        peer.map(address, size, &memory).failed(Errno::EXIST);
    }
    assert_eq!(server.fds(), before);
    peer.map(0x3000, 0x1000, &memory).succeeded();
    peer.map(0x8000, 0x1000, &memory).succeeded();
    server.is_unharmed_by(peer);
}

#[test]
fn m19_to_m23_flags() {
    for flags in [0, 0x10, 0x8000_0000, 4, 8, 12, 4 | 3, 8 | 3] {
        refused(&bytes::dma_map(32, flags, 0, 0x1000, 0x1000), Errno::INVAL);
    }
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.request(MAP, &bytes::dma_map(32, 2, 0, 0x1000, 0x1000))
        .succeeded();
}

#[test]
fn m24_two_descriptors_are_refused_and_closed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let memory = descriptors::memory(0x1000);
    let body = bytes::dma_map(32, READ_WRITE, 0, 0x1000, 0x1000);
    peer.request_with(MAP, &body, &[memory.as_fd(), memory.as_fd()])
        .failed(Errno::INVAL);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn m25_m33_m34_f14_descriptors_that_are_no_memory_are_refused() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let body = bytes::dma_map(32, READ_WRITE, 0, 0x1000, 0x1000);
    for (kind, fd) in descriptors::strange() {
        let reply = peer.request_with(MAP, &body, &[fd.as_fd()]);
        let errno = Errno::from_raw_os_error(reply.error.cast_signed());
        assert!(
            matches!(errno, Errno::INVAL | Errno::BADF),
            "{kind}: {errno}"
        );
        assert_eq!(server.fds(), before, "{kind}");
    }
    peer.request_with(MAP, &body, &[descriptors::eventfd().as_fd()])
        .failed(Errno::INVAL);
    server.is_unharmed_by(peer);
}

#[test]
fn m26_m27_access_mode_of_the_descriptor_is_obeyed() {
    let memory = descriptors::memory(0x1000);
    refused_with(
        descriptors::reopened(&memory, OFlags::RDONLY),
        READ_WRITE,
        0,
        Errno::ACCESS,
    );
    refused_with(
        descriptors::reopened(&memory, OFlags::WRONLY),
        2,
        0,
        Errno::ACCESS,
    );
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let read_only = descriptors::reopened(&memory, OFlags::RDONLY);
    peer.request_with(
        MAP,
        &bytes::dma_map(32, 1, 0, 0x1000, 0x1000),
        &[read_only.as_fd()],
    )
    .succeeded();
}

#[test]
fn m28_m29_file_that_is_too_short_is_refused() {
    refused_with(descriptors::memory(0x800), READ_WRITE, 0, Errno::INVAL);
    refused_with(
        descriptors::memory(0x1000),
        READ_WRITE,
        0x1000,
        Errno::INVAL,
    );
    refused_with(
        descriptors::memory(0x1000),
        READ_WRITE,
        0x10_0000,
        Errno::INVAL,
    );
}

#[test]
fn m30_m31_memory_that_could_shrink_is_refused() {
    refused_with(
        descriptors::memory_sealed(0x1000, SealFlags::GROW),
        READ_WRITE,
        0,
        Errno::PERM,
    );
    refused_with(
        descriptors::memory_sealed(0x1000, SealFlags::empty()),
        1,
        0,
        Errno::PERM,
    );
}

#[test]
fn m32_memory_sealed_against_writing_is_refused_for_writing() {
    let seals = SealFlags::SHRINK | SealFlags::WRITE;
    refused_with(
        descriptors::memory_sealed(0x1000, seals),
        READ_WRITE,
        0,
        Errno::PERM,
    );
    let seals = SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
    refused_with(
        descriptors::memory_sealed(0x1000, seals),
        READ_WRITE,
        0,
        Errno::PERM,
    );
}

#[test]
fn m36_m37_more_maps_than_announced_are_refused_and_lookups_stay_quick() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    for page in 0..65535u64 {
        let body = bytes::dma_map(32, 3, 0, page * 0x2000, 0x1000);
        peer.send(&bytes::message(1, MAP, bytes::NO_REPLY, &body));
    }
    peer.request(MAP, &bytes::dma_map(32, 3, 0, 0x1000, 0x1000))
        .failed(Errno::NOSPC);
    peer.unmap(65534 * 0x2000, 0x1000).succeeded();
    peer.request(MAP, &bytes::dma_map(32, 3, 0, 0x1000, 0x1000))
        .succeeded();
}

#[test]
fn m38_map_and_unmap_in_a_loop_leaves_nothing() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    for _ in 0..2000 {
        peer.map(0x1000, 0x4000, &descriptors::memory(0x4000))
            .succeeded();
        peer.unmap(0x1000, 0x4000).succeeded();
    }
    assert_eq!(server.fds(), before);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
}

#[test]
fn m39_more_than_the_address_space_is_refused() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    // 8 TiB each, sparse: the address space of a process has 128 TiB.
    let memory = descriptors::memory(1 << 43);
    let refused = (0..17u64).find_map(|number| {
        let reply = peer.map(number << 43, 1 << 43, &memory);
        (reply.error != 0).then_some(reply)
    });
    refused.expect("one does not fit").failed(Errno::NOMEM);
    server.is_unharmed_by(peer);
}

#[test]
fn m43_m44_device_reaches_what_is_mapped_and_nothing_else() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let memory = descriptors::memory(0x4000);
    rustix::io::pwrite(&memory, b"pattern", 0xffc).expect("fill");
    peer.request_with(
        MAP,
        &bytes::dma_map(32, 3, 0, 0x1000, 0x1000),
        &[memory.as_fd()],
    )
    .succeeded();
    peer.request_with(
        MAP,
        &bytes::dma_map(32, 3, 0x1000, 0x2000, 0x1000),
        &[memory.as_fd()],
    )
    .succeeded();
    peer.request_with(
        MAP,
        &bytes::dma_map(32, 1, 0x2000, 0x3000, 0x1000),
        &[memory.as_fd()],
    )
    .succeeded();
    peer.region_write(7, 4, &[4]).succeeded();
    assert_eq!(dma_copy(&peer, 0x1ffc, 0x1000, 7), 1, "across two maps");
    let mut copied = [0; 7];
    rustix::io::pread(&memory, &mut copied, 0).expect("look");
    assert_eq!(&copied, b"pattern");
    assert_eq!(
        dma_copy(&peer, 0x1000, 0x3000, 7),
        2 | 1 << 16,
        "EPERM: mapped read-only"
    );
    assert_eq!(
        dma_copy(&peer, 0x1000, 0x9000, 7),
        2 | 14 << 16,
        "EFAULT: not mapped"
    );
    assert_eq!(
        dma_copy(&peer, 0x3ffc, 0x1000, 7),
        2 | 14 << 16,
        "EFAULT: past the end"
    );
}

/// Runs the device's copy engine; gives its status register.
pub(crate) fn dma_copy(peer: &Peer, source: u64, destination: u64, len: u32) -> u32 {
    let mut job = source.to_le_bytes().to_vec();
    job.extend_from_slice(&destination.to_le_bytes());
    job.extend_from_slice(&len.to_le_bytes());
    job.extend_from_slice(&1u32.to_le_bytes());
    peer.region_write(2, 0x20, &job).succeeded();
    peer.read_u32(2, 0x38)
}
