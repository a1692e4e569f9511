//! The client against descriptions of a device. Names begin with the rows of conformance.md (B3) that they cover.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

mod peers;

use peers::device::memfd;
use peers::script::{client_of, expect_alive};
use peers::{Probe, REPLY, message};
use protocol::messages::{DeviceInfo, IoFdKind, IoFds};
use protocol::{ClientError, IrqIndex, IrqInfo, RegionFlags, RegionIndex, RegionInfo, SparseArea};
use std::os::fd::{AsFd, OwnedFd};

/// One answer: its body and how many descriptors come with it.
type Script = Vec<(Vec<u8>, Vec<OwnedFd>)>;

/// Asks something of a server that answers with these bodies in turn, and then still works.
fn ask<R>(
    answers: Script,
    question: impl FnOnce(&protocol::Client) -> Result<R, ClientError>,
) -> Result<R, ClientError> {
    let (client, thread) = client_of(|peer| {
        for (body, fds) in answers {
            let request = peer.recv();
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let reply = message(request.id, request.command, REPLY, &body);
            peer.send_with_fds(&reply, &borrowed);
        }
        peer.serve_reads();
    });
    let result = question(&client);
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
    result
}

fn device_info(flags: u32, regions: u32, irqs: u32) -> Result<DeviceInfo, ClientError> {
    let body = bytes![16u32, flags, regions, irqs];
    ask(vec![(body, vec![])], |client| client.device_info())
}

fn irq_info(index: IrqIndex, body: Vec<u8>) -> Result<IrqInfo, ClientError> {
    ask(vec![(body, vec![])], |client| client.irq_info(index))
}

const RWMC: u32 = 1 | 2 | 4 | 8;

/// The fixed part of a region info, of BAR 0 unless it says otherwise.
struct Head {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

impl Head {
    fn bytes(&self) -> Vec<u8> {
        bytes![
            self.argsz,
            self.flags,
            self.index,
            self.cap_offset,
            self.size,
            self.offset
        ]
    }
}

const BAR: Head = Head {
    argsz: 64,
    flags: RWMC,
    index: 0,
    cap_offset: 32,
    size: 0x4000,
    offset: 0,
};

fn sparse(areas: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = bytes![1u16, 1u16, 0u32, areas.len() as u32, 0u32];
    for (offset, size) in areas {
        bytes.extend(bytes![*offset, *size]);
    }
    bytes
}

fn with(head: &Head, capabilities: &[u8]) -> Vec<u8> {
    let mut body = Head {
        argsz: 32 + capabilities.len() as u32,
        ..*head
    }
    .bytes();
    body.extend(capabilities);
    body
}

/// Asks for BAR 0: the first answer is the head alone, as a server has to when there is no room.
fn region_info(body: Vec<u8>, fds: Vec<OwnedFd>) -> Result<RegionInfo, ClientError> {
    let first = body[..32].to_vec();
    ask(vec![(first, vec![]), (body, fds)], |client| {
        client.region_info(RegionIndex::BAR0)
    })
}

fn region_refused(body: Vec<u8>) {
    let error = region_info(body, vec![memfd(0x4000)]).unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
}

/// A first answer that already is refused.
fn head_refused(index: RegionIndex, head: &Head) {
    let error = ask(vec![(head.bytes(), vec![])], |client| {
        client.region_info(index)
    });
    assert!(matches!(error, Err(ClientError::BadAnswer { .. })));
}

#[test]
fn d01_d02_d03_d04_d05_device_info() {
    let info = device_info(3, 9, 5).unwrap();
    assert!(info.reset && info.pci);
    assert!(!device_info(2, 9, 5).unwrap().reset);
    for (flags, regions, irqs) in [
        (1, 9, 5),
        (3, u32::MAX, 5),
        (3, 65, 5),
        (3, 0, 5),
        (3, 7, 5),
        (3, 9, u32::MAX),
        (3, 9, 51),
    ] {
        let error = device_info(flags, regions, irqs).unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer { .. }));
    }
    for bytes in 0..16 {
        let body = bytes![16u32, 3u32, 9u32, 5u32][..bytes].to_vec();
        ask(vec![(body, vec![])], |client| client.device_info()).unwrap_err();
    }
}

#[test]
fn region_with_areas_is_asked_for_twice() {
    let body = with(&BAR, &sparse(&[(0x2000, 0x1000), (0, 0x1000)]));
    let info = region_info(body, vec![memfd(0x4000)]).unwrap();
    let area = |offset, size| SparseArea { offset, size };
    assert_eq!(info.areas, [area(0, 0x1000), area(0x2000, 0x1000)]);
    assert!(info.fd.is_some());
}

#[test]
fn region_without_areas_is_asked_for_once_and_all_of_it_can_be_mapped() {
    let head = Head {
        argsz: 32,
        flags: 7,
        cap_offset: 0,
        ..BAR
    };
    let answers = vec![(head.bytes(), vec![memfd(0x4000)])];
    let info = ask(answers, |client| client.region_info(RegionIndex::BAR0)).unwrap();
    assert_eq!(info.areas.len(), 1);
    assert_eq!(info.areas[0].size, 0x4000);
}

#[test]
fn d06_d07_d08_d10_d11_head_that_makes_no_sense_is_refused() {
    let bar = RegionIndex::BAR0;
    head_refused(bar, &Head { index: 1, ..BAR });
    for argsz in [0, 31, 8193, u32::MAX] {
        head_refused(bar, &Head { argsz, ..BAR });
    }
    for size in [u64::MAX, 0x3000, 1 << 41] {
        head_refused(bar, &Head { size, ..BAR });
    }
    let config = Head {
        index: 7,
        argsz: 32,
        flags: 3,
        ..BAR
    };
    for size in [0, 16, 1 << 32] {
        head_refused(RegionIndex::CONFIG, &Head { size, ..config });
    }
    for bytes in 0..32 {
        let body = BAR.bytes()[..bytes].to_vec();
        ask(vec![(body, vec![])], |client| client.region_info(bar)).unwrap_err();
    }
}

#[test]
fn d09_argsz_that_grows_is_refused() {
    let body = with(&BAR, &sparse(&[(0, 0x1000)]));
    let mut grown = body.clone();
    grown[..4].copy_from_slice(&100u32.to_ne_bytes());
    let answers = vec![(body[..32].to_vec(), vec![]), (grown, vec![])];
    let error = ask(answers, |client| client.region_info(RegionIndex::BAR0));
    assert!(matches!(error, Err(ClientError::BadAnswer { .. })));
}

#[test]
fn d12_d13_chain_that_does_not_advance_is_refused() {
    let good = sparse(&[(0, 0x1000)]);
    for cap_offset in [1, 8, 31, 33, 60, 64, 0x1000, u32::MAX] {
        region_refused(with(&Head { cap_offset, ..BAR }, &good));
    }
    // next: to itself, backwards, into the head, past the end.
    for next in [32u32, 40, 8, 31, 64, u32::MAX] {
        let mut chain = good.clone();
        chain[4..8].copy_from_slice(&next.to_ne_bytes());
        if next == 40 {
            // Inside the capability itself: advances, but what is there is no chain that ends.
            chain[12..16].copy_from_slice(&40u32.to_ne_bytes());
        }
        region_refused(with(&BAR, &chain));
    }
    // Goes back once, and would end.
    let mut back = sparse(&[(0, 0x1000)]);
    back.extend(bytes![9u16, 1u16, 32u32]);
    region_refused(with(
        &Head {
            cap_offset: 64,
            ..BAR
        },
        &back,
    ));
    // Starts inside the head, at what looks like a link to the true capability.
    let inside = Head {
        index: 0,
        cap_offset: 8,
        ..BAR
    };
    let mut body = with(&inside, &good);
    body[12..16].copy_from_slice(&8u32.to_ne_bytes());
    region_refused(body);
    let mut long = Vec::new();
    for link in 1..=20u32 {
        long.extend(bytes![9u16, 1u16, 32 + 8 * link]);
    }
    region_refused(with(&BAR, &long));
}

#[test]
fn unknown_capabilities_are_skipped() {
    let mut chain = bytes![2u16, 1u16, 48u32, 7u32, 7u32];
    chain.extend(sparse(&[(0x1000, 0x1000)]));
    let info = region_info(with(&BAR, &chain), vec![memfd(0x4000)]).unwrap();
    assert_eq!(info.areas.len(), 1);
    assert_eq!(info.areas[0].offset, 0x1000);
}

#[test]
fn d14_number_of_areas_is_bounded_by_what_is_there() {
    for count in [2u32, 257, u32::MAX] {
        let mut chain = sparse(&[(0, 0x1000)]);
        chain[8..12].copy_from_slice(&count.to_ne_bytes());
        region_refused(with(&BAR, &chain));
    }
}

#[test]
fn d15_d22_area_that_is_not_inside_is_refused() {
    let cases: &[&[(u64, u64)]] = &[
        &[(0x4000, 0x1000)],
        &[(0x3000, 0x2000)],
        &[(u64::MAX - 0xfff, 0x1000)],
        &[(0x1000, u64::MAX - 0xfff)],
        &[(0, 0)],
        &[(0x800, 0x1000)],
        &[(0, 0x800)],
        &[(0, 0x2000), (0x1000, 0x1000)],
        &[(0x1000, 0x1000), (0x1000, 0x1000)],
    ];
    for areas in cases {
        region_refused(with(&BAR, &sparse(areas)));
    }
    for offset in [u64::MAX - 0xfff, i64::MAX as u64 - 0xfff, 0x800] {
        region_refused(with(&Head { offset, ..BAR }, &sparse(&[(0, 0x1000)])));
    }
}

#[test]
fn d17_d18_mmap_without_a_file_and_a_file_without_mmap() {
    let body = with(&BAR, &sparse(&[(0, 0x1000)]));
    let info = region_info(body, vec![]).unwrap();
    assert!(info.fd.is_none() && info.flags.contains(RegionFlags::MMAP));
    let probe = Probe::new();
    let head = Head {
        argsz: 32,
        flags: 3,
        cap_offset: 0,
        ..BAR
    };
    let fd = rustix::io::dup(probe.fd()).unwrap();
    let answers = vec![(head.bytes(), vec![fd])];
    let info = ask(answers, |client| client.region_info(RegionIndex::BAR0)).unwrap();
    assert!(info.fd.is_none() && info.areas.is_empty());
    probe.expect_closed();
}

#[test]
fn s22_two_files_for_a_region_are_refused_and_closed() {
    let probe = Probe::new();
    let fds = (0..2).map(|_| rustix::io::dup(probe.fd()).unwrap());
    let body = with(&BAR, &sparse(&[(0, 0x1000)]));
    let error = region_info(body, fds.collect()).unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer { .. }));
    probe.expect_closed();
}

#[test]
fn d23_d24_irq_info_that_makes_no_sense_is_refused() {
    let body = |index: u32, count: u32| bytes![16u32, 1u32, index, count];
    assert_eq!(irq_info(IrqIndex::MSIX, body(2, 2048)).unwrap().count, 2048);
    assert_eq!(irq_info(IrqIndex::INTX, body(0, 0)).unwrap().count, 0);
    for (index, count) in [
        (IrqIndex::INTX, 2),
        (IrqIndex::MSI, 33),
        (IrqIndex::MSIX, 2049),
        (IrqIndex::ERR, 2),
        (IrqIndex::MSIX, u32::MAX),
    ] {
        irq_info(index, body(index.0, count)).unwrap_err();
    }
    irq_info(IrqIndex::MSI, body(2, 1)).unwrap_err();
    irq_info(IrqIndex::MSI, bytes![15u32, 1u32, 1u32, 1u32]).unwrap_err();
}

fn io_fds(body: Vec<u8>, fds: usize) -> Result<IoFds, ClientError> {
    let head = body[..16].to_vec();
    let fds = (0..fds).map(|_| memfd(1)).collect();
    ask(vec![(head, vec![]), (body, fds)], |client| {
        client.region_io_fds(RegionIndex::BAR0, 0x1000)
    })
}

fn io_fd_entry(offset: u64, size: u64, fd_index: u32, kind: u32) -> Vec<u8> {
    bytes![offset, size, fd_index, kind, 1u32, 0u32, 0xabcdu64]
}

#[test]
fn io_fds_of_the_spec_and_of_libvfio_user_are_taken() {
    let mut spec = bytes![96u32, 0u32, 0u32, 2u32];
    spec.extend(io_fd_entry(0x10, 4, 0, 0));
    spec.extend(io_fd_entry(0x18, 0, 0, 0));
    let info = io_fds(spec, 1).unwrap();
    assert_eq!((info.entries.len(), info.fds.len()), (2, 1));
    assert_eq!(
        info.entries[0].kind,
        IoFdKind::IoEventFd { datamatch: 0xabcd }
    );
    let mut longer = bytes![64u32, 0u32, 0u32, 1u32];
    longer.extend(bytes![
        0x10u64, 4u64, 0u32, 0u32, 1u32, 0u32, 0x55u64, 0xabcdu64
    ]);
    let info = io_fds(longer, 1).unwrap();
    assert_eq!(
        info.entries[0].kind,
        IoFdKind::IoEventFd { datamatch: 0xabcd }
    );
}

#[test]
fn d25_io_fds_that_make_no_sense_are_refused() {
    let one = |entry: Vec<u8>| [bytes![56u32, 0u32, 0u32, 1u32], entry].concat();
    let refused = [
        one(io_fd_entry(0x1000, 1, 0, 0)),
        one(io_fd_entry(0xfff, 4, 0, 0)),
        one(io_fd_entry(u64::MAX, 8, 0, 0)),
        one(io_fd_entry(0, 9, 0, 0)),
        one(io_fd_entry(0, 7, 0, 0)),
        one(io_fd_entry(0, 4, 1, 0)),
        one(io_fd_entry(0, 4, u32::MAX, 0)),
        one(io_fd_entry(0, 4, 0, 3)),
        one(vec![]),
    ];
    for body in refused {
        io_fds(body, 1).unwrap_err();
    }
    for (argsz, count) in [
        (56u32, 0u32),
        (16, 1),
        (23, 1),
        (57, 1),
        (15, 0),
        (56, u32::MAX),
    ] {
        let head = bytes![argsz, 0u32, 0u32, count];
        ask(vec![(head, vec![])], |client| {
            client.region_io_fds(RegionIndex::BAR0, 0x1000)
        })
        .unwrap_err();
    }
}
