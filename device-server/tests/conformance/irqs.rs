//! A9: DEVICE_SET_IRQS.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::Errno;

use crate::support::{Peer, Server, bytes, descriptors};

const SET_IRQS: u16 = 8;
const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;
const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;
const REGISTERS: u32 = 2;

fn negotiated() -> (Server, Peer) {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    (server, peer)
}

fn set(peer: &Peer, flags: u32, index: u32, start: u32, count: u32) -> crate::support::Reply {
    peer.request(SET_IRQS, &bytes::set_irqs(flags, index, start, count, &[]))
}

/// Binds new eventfds to `start..start+count`.
fn bind(peer: &Peer, index: u32, start: u32, count: u32) -> Vec<OwnedFd> {
    let fds: Vec<OwnedFd> = (0..count).map(|_| descriptors::eventfd()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let body = bytes::set_irqs(EVENTFD | TRIGGER, index, start, count, &[]);
    peer.request_with(SET_IRQS, &body, &borrowed).succeeded();
    fds
}

/// Makes the device raise an interrupt of its own accord.
fn raise(peer: &Peer, index: u32, vector: u32) {
    peer.region_write(REGISTERS, 0x10, &(index << 16 | vector).to_le_bytes())
        .succeeded();
}

fn fired(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter().map(descriptors::fired).collect()
}

/// Each request is refused, and a binding made before still works.
fn refused(requests: &[Vec<u8>]) {
    let (server, peer) = negotiated();
    let bound = bind(&peer, MSIX, 0, 2);
    let before = server.fds();
    for request in requests {
        peer.request(SET_IRQS, request).failed(Errno::INVAL);
    }
    assert_eq!(server.fds(), before);
    raise(&peer, MSIX, 1);
    assert_eq!(fired(&bound), [0, 1]);
    server.is_unharmed_by(peer);
}

#[test]
fn q01_q02_short_payload_argsz_and_index() {
    let mut small_argsz = bytes::set_irqs(NONE | TRIGGER, MSIX, 0, 1, &[]);
    small_argsz[..4].copy_from_slice(&3u32.to_ne_bytes());
    refused(&[
        Vec::new(),
        vec![0; 8],
        small_argsz,
        bytes::set_irqs(NONE | TRIGGER, 5, 0, 1, &[]),
        bytes::set_irqs(NONE | TRIGGER, u32::MAX, 0, 1, &[]),
    ]);
}

#[test]
fn q03_q04_q05_flags_need_one_action_one_kind_of_data_and_nothing_else() {
    let flags = [
        NONE,
        TRIGGER,
        0,
        NONE | MASK | UNMASK,
        NONE | BOOL | TRIGGER,
        NONE | TRIGGER | 64,
        NONE | TRIGGER | 1 << 31,
    ];
    refused(&flags.map(|flags| bytes::set_irqs(flags, MSIX, 0, 1, &[])));
}

#[test]
fn q06_to_q11_ranges() {
    let ranges = [
        (16, 1),
        (16, 0),
        (0, 17),
        (15, 2),
        (284, u32::MAX),
        (1, u32::MAX),
        (1, 0),
    ];
    refused(&ranges.map(|(start, count)| bytes::set_irqs(NONE | TRIGGER, MSIX, start, count, &[])));
    refused(
        &[MASK | NONE, TRIGGER | BOOL, TRIGGER | EVENTFD]
            .map(|flags| bytes::set_irqs(flags, MSIX, 0, 0, &[])),
    );
}

#[test]
fn q12_q14_disabling_one_index_leaves_the_others() {
    let (server, peer) = negotiated();
    let before = server.fds();
    let msi = bind(&peer, MSI, 0, 2);
    let with_msi = server.fds();
    let msix = bind(&peer, MSIX, 0, 4);
    set(&peer, NONE | TRIGGER, MSIX, 0, 0).succeeded();
    assert_eq!(server.fds(), with_msi);
    set(&peer, NONE | TRIGGER, MSIX, 0, 0).succeeded();
    raise(&peer, MSIX, 0);
    raise(&peer, MSI, 1);
    assert_eq!((fired(&msi), fired(&msix)), (vec![0, 1], vec![0; 4]));
    set(&peer, NONE | TRIGGER, MSI, 0, 0).succeeded();
    assert_eq!(server.fds(), before);
}

#[test]
fn q15_q16_err_and_req_have_one_vector_that_cannot_be_masked() {
    for index in [ERR, REQ] {
        refused(&[
            bytes::set_irqs(NONE | MASK, index, 0, 1, &[]),
            bytes::set_irqs(NONE | UNMASK, index, 0, 1, &[]),
            bytes::set_irqs(NONE | TRIGGER, index, 0, 2, &[]),
        ]);
        let (_server, peer) = negotiated();
        let bound = bind(&peer, index, 0, 1);
        raise(&peer, index, 0);
        assert_eq!(fired(&bound), [1]);
    }
}

#[test]
fn q17_q19_bools_must_be_as_many_as_said() {
    refused(&[
        bytes::set_irqs(BOOL | TRIGGER, MSIX, 0, 2, &[1]),
        bytes::set_irqs(BOOL | TRIGGER, MSIX, 0, 2, &[1, 1, 1]),
        bytes::set_irqs(BOOL | TRIGGER, MSIX, 0, u32::MAX, &[1]),
    ]);
}

#[test]
fn q18_q31_bools_choose_and_every_value_but_0_is_true() {
    let (_server, peer) = negotiated();
    let bound = bind(&peer, MSIX, 0, 3);
    peer.request(
        SET_IRQS,
        &bytes::set_irqs(BOOL | TRIGGER, MSIX, 0, 3, &[0, 1, 2]),
    )
    .succeeded();
    assert_eq!(fired(&bound), [0, 1, 1]);
}

#[test]
fn q20_q21_q29_descriptors_that_do_not_match_are_closed_and_old_bindings_stay() {
    let (server, peer) = negotiated();
    let bound = bind(&peer, MSIX, 0, 2);
    let before = server.fds();
    let other = descriptors::eventfd();
    let fds = [other.as_fd(); 17];
    for (flags, count, sent) in [
        (BOOL | TRIGGER, 1, 1),
        (NONE | TRIGGER, 1, 1),
        (EVENTFD | TRIGGER, 2, 1),
        (EVENTFD | TRIGGER, 2, 3),
        (EVENTFD | TRIGGER, 16, 17),
    ] {
        let bools = vec![1; if flags & BOOL != 0 { 1 } else { 0 }];
        let body = bytes::set_irqs(flags, MSIX, 0, count, &bools);
        peer.request_with(SET_IRQS, &body, &fds[..sent])
            .failed(Errno::INVAL);
    }
    assert_eq!(server.fds(), before);
    raise(&peer, MSIX, 0);
    assert_eq!((fired(&bound), descriptors::fired(&other)), (vec![1, 0], 0));
    server.is_unharmed_by(peer);
}

#[test]
fn q22_eventfd_without_descriptors_unbinds_the_range() {
    let (server, peer) = negotiated();
    let before = server.fds();
    let bound = bind(&peer, MSIX, 0, 4);
    set(&peer, EVENTFD | TRIGGER, MSIX, 2, 2).succeeded();
    set(&peer, NONE | TRIGGER, MSIX, 0, 4).succeeded();
    assert_eq!(fired(&bound), [1, 1, 0, 0]);
    assert_eq!(server.fds(), before + 2);
}

#[test]
fn q23_new_eventfd_replaces_the_old() {
    let (server, peer) = negotiated();
    let old = bind(&peer, MSIX, 3, 1);
    let before = server.fds();
    let new = bind(&peer, MSIX, 3, 1);
    assert_eq!(server.fds(), before);
    raise(&peer, MSIX, 3);
    assert_eq!((fired(&old), fired(&new)), (vec![0], vec![1]));
}

#[test]
fn q24_descriptors_that_are_no_eventfd_are_refused() {
    let (server, peer) = negotiated();
    let before = server.fds();
    let body = bytes::set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, &[]);
    for (_, fd) in descriptors::strange() {
        peer.request_with(SET_IRQS, &body, &[fd.as_fd()])
            .failed(Errno::INVAL);
    }
    peer.request_with(SET_IRQS, &body, &[descriptors::memory(4096).as_fd()])
        .failed(Errno::INVAL);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

/// The kernel refuses to say anything of such a file, and so it is with the server's first question of the kind.
#[test]
fn q24_first_descriptor_of_all_is_a_file_of_fuse() {
    for (_, file) in descriptors::of_fuse() {
        let (server, peer) = negotiated();
        let body = bytes::set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, &[]);
        peer.request_with(SET_IRQS, &body, &[file.as_fd()])
            .failed(Errno::INVAL);
        server.is_unharmed_by(peer);
    }
}

#[test]
fn q25_q26_full_blocking_eventfd_does_not_hold_up_the_device() {
    let (_server, peer) = negotiated();
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd");
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
    let body = bytes::set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, &[]);
    peer.request_with(SET_IRQS, &body, &[fd.as_fd()])
        .succeeded();
    raise(&peer, MSIX, 0);
    set(&peer, NONE | TRIGGER, MSIX, 0, 1).succeeded();
    peer.is_in_step();
}

#[test]
fn q27_q28_semaphores_and_one_eventfd_for_all_vectors() {
    let (_server, peer) = negotiated();
    let flags = rustix::event::EventfdFlags::SEMAPHORE | rustix::event::EventfdFlags::NONBLOCK;
    let fd = rustix::event::eventfd(0, flags).expect("eventfd");
    let body = bytes::set_irqs(EVENTFD | TRIGGER, MSIX, 0, 16, &[]);
    peer.request_with(SET_IRQS, &body, &[fd.as_fd(); 16])
        .succeeded();
    set(&peer, NONE | TRIGGER, MSIX, 0, 16).succeeded();
    let count = std::iter::repeat_with(|| descriptors::fired(&fd))
        .take_while(|one| *one == 1)
        .count();
    assert_eq!(count, 16);
}

#[test]
fn q30_q32_q33_q34_triggering() {
    let (_server, peer) = negotiated();
    set(&peer, NONE | TRIGGER, MSIX, 0, 16).succeeded();
    raise(&peer, MSIX, 0);
    raise(&peer, MSIX, 16);
    raise(&peer, MSIX, 0xffff);
    raise(&peer, 0xffff, 0);
    let bound = bind(&peer, MSIX, 0, 3);
    set(&peer, NONE | TRIGGER, MSIX, 1, 1).succeeded();
    assert_eq!(fired(&bound), [0, 1, 0]);
}

#[test]
fn q35_masked_interrupt_comes_once_after_the_unmask() {
    let (_server, peer) = negotiated();
    let bound = bind(&peer, MSIX, 0, 1);
    set(&peer, NONE | MASK, MSIX, 0, 1).succeeded();
    raise(&peer, MSIX, 0);
    raise(&peer, MSIX, 0);
    assert_eq!(fired(&bound), [0]);
    set(&peer, NONE | UNMASK, MSIX, 0, 1).succeeded();
    assert_eq!(fired(&bound), [1]);
}

#[test]
fn q37_eventfds_for_masking_and_unmasking_are_taken_and_closed_where_nothing_waits_for_them() {
    let (server, peer) = negotiated();
    let before = server.fds();
    for (index, actions) in [
        (INTX, &[MASK][..]),
        (MSI, &[MASK, UNMASK]),
        (MSIX, &[MASK, UNMASK]),
    ] {
        for action in actions {
            let event = descriptors::eventfd();
            let body = bytes::set_irqs(EVENTFD | action, index, 0, 1, &[]);
            peer.request_with(SET_IRQS, &body, &[event.as_fd()])
                .succeeded();
            set(&peer, EVENTFD | action, index, 0, 1).succeeded();
        }
    }
    assert_eq!(server.fds(), before);
    let bound = bind(&peer, MSIX, 0, 1);
    raise(&peer, MSIX, 0);
    assert_eq!(fired(&bound), [1], "nothing was masked by it");
}

#[test]
fn q36_q37_intx_is_unmasked_by_message_and_by_eventfd() {
    let (server, peer) = negotiated();
    let line = bind(&peer, INTX, 0, 1);
    let resample = descriptors::eventfd();
    let body = bytes::set_irqs(EVENTFD | UNMASK, INTX, 0, 1, &[]);
    peer.request_with(SET_IRQS, &body, &[resample.as_fd()])
        .succeeded();
    peer.region_write(REGISTERS, 0x14, &[1, 0, 0, 0])
        .succeeded();
    assert_eq!(fired(&line), [1]);
    peer.is_in_step();
    assert_eq!(fired(&line), [0], "the line masks itself");
    rustix::io::write(&resample, &1u64.to_ne_bytes()).expect("end of interrupt");
    wait_for_signal(&line[0]);
    set(&peer, NONE | UNMASK, INTX, 0, 1).succeeded();
    assert_eq!(fired(&line), [1], "still high");
    peer.region_write(REGISTERS, 0x14, &[0, 0, 0, 0])
        .succeeded();
    set(&peer, NONE | UNMASK, INTX, 0, 1).succeeded();
    assert_eq!(fired(&line), [0]);
    let idle = server.fds();
    set(&peer, NONE | TRIGGER, INTX, 0, 0).succeeded();
    assert_eq!(server.fds(), idle - 2);
}

/// Waits until the eventfd is signalled, and takes the signal away.
fn wait_for_signal(fd: &OwnedFd) {
    let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut poll, Some(&patience)), Ok(1));
    assert_eq!(descriptors::fired(fd), 1);
}

#[test]
fn q39_binding_and_unbinding_in_a_loop_leaves_nothing() {
    let (server, peer) = negotiated();
    let before = server.fds();
    for _ in 0..128 {
        drop(bind(&peer, MSIX, 0, 16));
        set(&peer, NONE | TRIGGER, MSIX, 0, 0).succeeded();
    }
    assert_eq!(server.fds(), before);
}

#[test]
fn q40_closed_client_end_is_no_error() {
    let (_server, peer) = negotiated();
    drop(bind(&peer, MSIX, 0, 1));
    raise(&peer, MSIX, 0);
    peer.is_in_step();
}
