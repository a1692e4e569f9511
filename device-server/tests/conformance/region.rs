//! A7: REGION_READ and REGION_WRITE.

use protocol::Errno;

use crate::support::{Peer, Server, bytes};

const BAR0: u32 = 0;
const TABLE: u32 = 1;
const REGISTERS: u32 = 2;
const CONFIG: u32 = 7;
const READ: u16 = 9;
const WRITE: u16 = 10;

fn negotiated() -> (Server, Peer) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    (server, peer)
}

#[test]
fn r01_r15_r16_r17_payloads_that_do_not_match_their_count() {
    let (server, peer) = negotiated();
    peer.request(READ, &[0; 15]).failed(Errno::INVAL);
    for (count, data) in [(4, 3), (4, 5), (0xffff_ffff, 4), (4, 0)] {
        let body = bytes::access(REGISTERS, 8, count, &vec![0x77; data]);
        peer.request(WRITE, &body).failed(Errno::INVAL);
    }
    assert_eq!(peer.read_u32(REGISTERS, 8), 0, "nothing was written");
    server.is_unharmed_by(peer);
}

#[test]
fn r02_r03_regions_that_do_not_exist() {
    let (server, peer) = negotiated();
    for region in [3, 5, 6, 8, 9, u32::MAX] {
        peer.region_read(region, 0, 4).failed(Errno::INVAL);
        peer.region_write(region, 0, &[0; 4]).failed(Errno::INVAL);
    }
    server.is_unharmed_by(peer);
}

#[test]
fn r04_to_r07_r22_accesses_past_the_end() {
    let (server, peer) = negotiated();
    for (offset, count) in [
        (4096, 1),
        (4094, 4),
        (u64::MAX, 4),
        (1 << 63, 4),
        (u64::MAX - 3, 4),
    ] {
        for region in [REGISTERS, CONFIG, TABLE] {
            peer.region_read(region, offset, count).failed(Errno::INVAL);
            peer.region_write(region, offset, &vec![1; count as usize])
                .failed(Errno::INVAL);
        }
    }
    server.is_unharmed_by(peer);
}

#[test]
fn r08_r09_r10_count_0() {
    let (server, peer) = negotiated();
    for offset in [0, 4096] {
        let read = peer.region_read(REGISTERS, offset, 0);
        assert_eq!(
            read.succeeded().body,
            bytes::access(REGISTERS, offset, 0, &[])
        );
        let write = peer.region_write(REGISTERS, offset, &[]);
        assert_eq!(
            write.succeeded().body,
            bytes::access(REGISTERS, offset, 0, &[])
        );
    }
    peer.region_read(REGISTERS, 4097, 0).failed(Errno::INVAL);
    peer.region_write(REGISTERS, 4097, &[]).failed(Errno::INVAL);
    server.is_unharmed_by(peer);
}

#[test]
fn r11_r26_largest_accesses_to_a_mapped_region_by_message() {
    let (_server, peer) = negotiated();
    let data: Vec<u8> = (0..1u32 << 20).map(|n| (n / 7) as u8).collect();
    peer.region_write(BAR0, 1 << 20, &data).succeeded();
    let read = peer.region_read(BAR0, 1 << 20, 1 << 20);
    assert_eq!(read.succeeded().body[16..], data);
    let info = peer.request(5, &bytes::region_info(4096, BAR0));
    let mut mapped = vec![0; 1 << 20];
    rustix::io::pread(&info.fds[0], &mut mapped, 1 << 20).expect("the same memory");
    assert_eq!(mapped, data);
}

#[test]
fn r12_r13_r14_counts_above_what_either_side_takes() {
    let (server, peer) = negotiated();
    let before = server.peak_memory_kib();
    for count in [(1 << 20) + 1, u32::MAX] {
        peer.region_read(BAR0, 0, count).failed(Errno::INVAL);
    }
    assert!(
        server.peak_memory_kib() < before + 1024,
        "no buffer was made for it"
    );
    drop(peer);
    let small = Peer::negotiated_with(&server, r#"{"capabilities":{"max_data_xfer_size":4096}}"#);
    small.region_read(BAR0, 0, 4097).failed(Errno::INVAL);
    small.region_read(BAR0, 0, 4096).succeeded();
    server.is_unharmed_by(small);
}

#[test]
fn r18_read_with_surplus_payload() {
    let (_server, peer) = negotiated();
    let reply = peer.request(READ, &bytes::access(REGISTERS, 0, 4, &[0xee; 50]));
    assert_eq!(reply.succeeded().body.len(), 20);
}

#[test]
fn r20_r21_r28_any_width_and_alignment() {
    let (_server, peer) = negotiated();
    for region in [BAR0, TABLE, REGISTERS, 4, CONFIG] {
        for width in [1u32, 2, 3, 4, 5, 7, 8, 16] {
            for offset in 0..9 {
                let reply = peer.region_read(region, offset, width);
                assert_eq!(reply.succeeded().body.len(), 16 + width as usize);
                // Not the offsets that start something: those have tests of their own.
                if region != REGISTERS && region != 4 {
                    peer.region_write(region, offset, &vec![0; width as usize])
                        .succeeded();
                }
            }
        }
    }
    peer.is_in_step();
}

#[test]
fn r23_r25_config_space() {
    let (_server, peer) = negotiated();
    peer.region_write(CONFIG, 0, &[0xff; 4]).succeeded();
    assert_eq!(peer.read_u32(CONFIG, 0), 0xb001_1d1d);
    peer.region_write(CONFIG, 0x10, &[0xff; 4]).succeeded();
    assert_eq!(peer.read_u32(CONFIG, 0x10), 0xffe0_0000);
}

#[test]
fn r24_config_write_over_several_registers() {
    let (_server, peer) = negotiated();
    peer.region_write(CONFIG, 0x10, &[0xff; 24]).succeeded();
    assert_eq!(peer.read_u32(CONFIG, 0x14), 0xffff_f000);
    assert_eq!(peer.read_u32(CONFIG, 0x20), 0xffff_ffe1);
}

#[test]
fn r29_replies_repeat_the_head() {
    let (_server, peer) = negotiated();
    let read = peer.region_read(REGISTERS, 8, 4);
    assert_eq!(
        read.succeeded().body[..16],
        bytes::access(REGISTERS, 8, 4, &[])
    );
    let write = peer.region_write(REGISTERS, 8, &[1; 8]);
    assert_eq!(write.succeeded().body, bytes::access(REGISTERS, 8, 8, &[]));
}

/// Pitfall 31: SPDK's client reaches what lies before the first area by message, what lies behind it not at all. So an area
/// covers the whole BAR, and a client that maps nothing reads each byte of it.
#[test]
fn i10_bar_that_is_mapped_whole_is_served_by_message_too() {
    let (_server, peer) = negotiated();
    let info = peer.request(5, &bytes::region_info(64, BAR0));
    let size: u64 = 2 << 20;
    let area = [0u64, size].map(u64::to_ne_bytes).concat();
    assert_eq!(
        info.succeeded().body[48..],
        area,
        "one area, as large as the BAR"
    );
    rustix::io::pwrite(&info.fds[0], b"end", size - 3).expect("the BAR's memory");
    let last = peer.region_read(BAR0, size - 3, 3);
    assert_eq!(&last.succeeded().body[16..], b"end");
    peer.region_write(BAR0, 0, b"head").succeeded();
    let mut head = [0; 4];
    rustix::io::pread(&info.fds[0], &mut head, 0).expect("the BAR's memory");
    assert_eq!(&head, b"head");
}
