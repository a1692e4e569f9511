//! A6: queries.

use protocol::Errno;
use rustix::fs::SealFlags;

use crate::support::{Peer, Server, bytes};

const REGION_INFO: u16 = 5;
const IO_FDS: u16 = 6;
const IRQ_INFO: u16 = 7;
/// DEVICE_GET_REGION_INFO with one sparse area: head, capability, area.
const FULL_BYTES: u32 = 32 + 16 + 16;

fn negotiated() -> (Server, Peer) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    (server, peer)
}

#[test]
fn i01_i02_i03_device_info() {
    let (server, peer) = negotiated();
    for request in [[16, 0, 0, 0], [32, 0, 0, 0], [16, 0xff, 0xff, 0xff]] {
        let reply = peer.request(4, &bytes::words(&request));
        assert_eq!(reply.succeeded().body, bytes::words(&[16, 3, 9, 5]));
    }
    peer.request(4, &bytes::words(&[8, 0, 0, 0]))
        .failed(Errno::INVAL);
    peer.request(4, &bytes::words(&[15, 0, 0, 0]))
        .failed(Errno::INVAL);
    peer.request(4, &bytes::words(&[16, 0]))
        .failed(Errno::INVAL);
    server.is_unharmed_by(peer);
}

#[test]
fn i04_i05_region_info_that_is_short_or_past_the_last_region() {
    let (server, peer) = negotiated();
    peer.request(REGION_INFO, &bytes::words(&[32, 0]))
        .failed(Errno::INVAL);
    peer.request(REGION_INFO, &bytes::region_info(8, 0))
        .failed(Errno::INVAL);
    for index in [9, 0x7fff_ffff, u32::MAX] {
        peer.request(REGION_INFO, &bytes::region_info(32, index))
            .failed(Errno::INVAL);
    }
    server.is_unharmed_by(peer);
}

#[test]
fn i06_i11_regions_without_areas() {
    let (_server, peer) = negotiated();
    let config = peer.request(REGION_INFO, &bytes::region_info(40, 7));
    assert_eq!(
        config.succeeded().body,
        bytes::words(&[32, 3, 7, 0, 4096, 0, 0, 0])
    );
    let absent = peer.request(REGION_INFO, &bytes::region_info(32, 5));
    assert_eq!(
        absent.succeeded().body,
        bytes::words(&[32, 0, 5, 0, 0, 0, 0, 0])
    );
    assert!(config.fds.is_empty() && absent.fds.is_empty());
}

#[test]
fn i07_i09_without_room_for_all_areas_there_is_none_and_no_descriptor() {
    let (_server, peer) = negotiated();
    for argsz in [32, FULL_BYTES - 1] {
        let reply = peer.request(REGION_INFO, &bytes::region_info(argsz, 0));
        assert_eq!(
            reply.succeeded().body,
            bytes::words(&[FULL_BYTES, 7, 0, 0, 2 << 20, 0, 0, 0])
        );
        assert!(reply.fds.is_empty());
    }
}

#[test]
fn i08_i10_with_room_there_are_areas_and_one_descriptor() {
    let (_server, peer) = negotiated();
    for argsz in [FULL_BYTES, u32::MAX] {
        let reply = peer.request(REGION_INFO, &bytes::region_info(argsz, 0));
        let head = [FULL_BYTES, 15, 0, 32, 2 << 20, 0, 0, 0];
        let capability = [1 | 1 << 16, 0, 1, 0];
        let area = [0, 0, 2 << 20, 0];
        assert_eq!(
            reply.succeeded().body,
            bytes::words(&[&head[..], &capability, &area].concat())
        );
        assert_eq!(reply.fds.len(), 1);
    }
}

#[test]
fn i12_ten_thousand_queries_leave_no_descriptor() {
    let (server, peer) = negotiated();
    let before = server.fds();
    for _ in 0..10_000 {
        peer.request(REGION_INFO, &bytes::region_info(4096, 0))
            .succeeded();
    }
    assert_eq!(server.fds(), before);
}

#[test]
fn i13_region_memory_cannot_be_resized_by_the_client() {
    let (_server, peer) = negotiated();
    let reply = peer.request(REGION_INFO, &bytes::region_info(4096, 0));
    let seals = rustix::fs::fcntl_get_seals(&reply.fds[0]).expect("a memfd");
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    assert_eq!(rustix::fs::ftruncate(&reply.fds[0], 0), Err(Errno::PERM));
}

#[test]
fn i14_client_that_takes_no_descriptors_gets_none() {
    let server = Server::start();
    let json = r#"{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}"#;
    let peer = Peer::connect(&server);
    assert!(
        peer.request(1, &bytes::version(0, 1, json))
            .succeeded()
            .fds
            .is_empty()
    );
    let reply = peer.request(REGION_INFO, &bytes::region_info(4096, 0));
    assert!(reply.succeeded().fds.is_empty());
}

#[test]
fn i15_i16_i17_irq_info() {
    let (server, peer) = negotiated();
    peer.request(IRQ_INFO, &bytes::words(&[16, 0]))
        .failed(Errno::INVAL);
    peer.request(IRQ_INFO, &bytes::words(&[8, 0, 0, 0]))
        .failed(Errno::INVAL);
    for index in [5, u32::MAX] {
        peer.request(IRQ_INFO, &bytes::words(&[16, 0, index, 0]))
            .failed(Errno::INVAL);
    }
    for (index, flags, count) in [(0, 7, 1), (1, 3, 8), (2, 3, 16), (3, 1, 1), (4, 1, 1)] {
        let reply = peer.request(IRQ_INFO, &bytes::words(&[16, 0, index, 0]));
        assert_eq!(
            reply.succeeded().body,
            bytes::words(&[16, flags, index, count])
        );
    }
    server.is_unharmed_by(peer);
}

#[test]
fn i18_i19_i20_i21_region_io_fds() {
    let (server, peer) = negotiated();
    for request in [
        [16, 1, 0, 0],
        [16, 0, 0, 1],
        [15, 0, 0, 0],
        [(1 << 20) + 1, 0, 0, 0],
    ] {
        peer.request(IO_FDS, &bytes::words(&request))
            .failed(Errno::INVAL);
    }
    for index in [9, u32::MAX, 5] {
        peer.request(IO_FDS, &bytes::words(&[16, 0, index, 0]))
            .failed(Errno::INVAL);
    }
    let reply = peer.request(IO_FDS, &bytes::words(&[64, 0, 0, 0]));
    assert_eq!(reply.succeeded().body, bytes::words(&[16, 0, 0, 0]));
    assert!(reply.fds.is_empty());
    server.is_unharmed_by(peer);
}

#[test]
fn i22_i23_descriptor_of_the_doorbells_comes_once_and_when_there_is_room() {
    let (server, peer) = negotiated();
    let idle = server.fds();
    let reply = peer.request(IO_FDS, &bytes::words(&[16, 0, 2, 0]));
    assert_eq!(reply.succeeded().body, bytes::words(&[96, 0, 2, 2]));
    assert!(reply.fds.is_empty(), "the head only");
    let reply = peer.request(IO_FDS, &bytes::words(&[95, 0, 2, 0]));
    assert_eq!(reply.succeeded().body, bytes::words(&[96, 0, 2, 2]));
    assert!(reply.fds.is_empty(), "one byte short");
    let reply = peer.request(IO_FDS, &bytes::words(&[96, 0, 2, 0]));
    let expected = bytes::words(&[
        96, 0, 2, 2, 0x44, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x48, 0, 4, 0, 0, 0, 1, 0, 7, 0,
    ]);
    assert_eq!(reply.succeeded().body, expected);
    let [eventfd] = &reply.fds[..] else {
        panic!(
            "{} descriptors for two entries that share one",
            reply.fds.len()
        );
    };
    // As KVM would, beside a message.
    for ring in [1u64, 2] {
        rustix::io::write(eventfd, &ring.to_ne_bytes()).expect("ring");
    }
    peer.region_write(2, 0x44, &[0; 4]).succeeded();
    assert_eq!(peer.read_u32(2, 0x4c), 4, "rings");
    assert_eq!(peer.read_u32(2, 0x50), 1, "of those by message");
    drop(reply);
    assert_eq!(server.fds(), idle);
}

#[test]
fn i23_doorbell_is_never_the_one_of_the_last_client() {
    let (server, first) = negotiated();
    let reply = first.request(IO_FDS, &bytes::words(&[96, 0, 2, 0]));
    drop(first);
    let second = Peer::negotiated(&server);
    rustix::io::write(&reply.fds[0], &5u64.to_ne_bytes()).expect("ring");
    assert_eq!(second.read_u32(2, 0x4c), 0);
}

#[test]
fn i22_doorbell_whose_count_the_client_fills_and_blocks_holds_up_nobody() {
    let (_server, peer) = negotiated();
    let reply = peer.request(IO_FDS, &bytes::words(&[96, 0, 2, 0]));
    let eventfd = &reply.fds[0];
    rustix::fs::fcntl_setfl(eventfd, rustix::fs::OFlags::empty()).expect("F_SETFL");
    assert_eq!(peer.read_u32(2, 0x4c), 0, "empty, and a read would block");
    let most = (u64::MAX - 1).to_ne_bytes();
    rustix::io::write(eventfd, &most).expect("fill");
    peer.is_in_step();
    peer.read_u32(2, 0x4c);
    peer.is_in_step();
}

#[test]
fn g01_g02_g07_device_feature_without_migration() {
    let (server, peer) = negotiated();
    peer.request(16, &bytes::words(&[16])).failed(Errno::INVAL);
    // GET of MIGRATION, with room for its answer.
    peer.request(16, &bytes::words(&[16, 1 | 1 << 16]))
        .failed(Errno::NOTSUP);
    peer.request(17, &bytes::words(&[4096, 8]))
        .failed(Errno::NOTSUP);
    server.is_unharmed_by(peer);
}
