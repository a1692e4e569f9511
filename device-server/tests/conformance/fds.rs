//! A3: file descriptors where none, others or too many belong.

use std::os::fd::{AsFd, BorrowedFd};

use protocol::Errno;

use crate::support::{Peer, Server, bytes, descriptors};

const GET_INFO: [u32; 4] = [16, 0, 0, 0];

#[test]
fn f01_f04_f05_descriptors_that_no_command_asked_for_are_closed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    peer.map(0x1000, 0x1000, &descriptors::memory(0x1000))
        .succeeded();
    let before = server.fds();
    let fd = descriptors::eventfd();
    peer.request_with(4, &bytes::words(&GET_INFO), &[fd.as_fd()])
        .succeeded();
    peer.request_with(3, &bytes::dma_unmap(24, 0, 0x1000, 0x1000), &[fd.as_fd()])
        .succeeded();
    peer.request_with(13, &[], &[fd.as_fd()]).succeeded();
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn f02_f03_more_descriptors_than_announced_are_closed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let fd = descriptors::eventfd();
    let fds: Vec<BorrowedFd<'_>> = vec![fd.as_fd(); 250];
    peer.request_with(4, &bytes::words(&GET_INFO), &fds)
        .failed(Errno::INVAL);
    peer.request_with(8, &bytes::set_irqs(4 | 32, 2, 0, 16, &[]), &fds[..17])
        .failed(Errno::INVAL);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn f06_f07_descriptors_of_refused_requests_are_closed() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let (memory, event) = (descriptors::memory(0x1000), descriptors::eventfd());
    peer.request_with(2, &bytes::dma_map(32, 0, 0, 0, 0x1000), &[memory.as_fd()])
        .failed(Errno::INVAL);
    peer.request_with(2, &[0; 8], &[memory.as_fd()])
        .failed(Errno::INVAL);
    peer.request_with(8, &bytes::set_irqs(4 | 32, 9, 0, 1, &[]), &[event.as_fd()])
        .failed(Errno::INVAL);
    peer.request_with(99, &[0; 8], &[event.as_fd(), memory.as_fd()])
        .failed(Errno::INVAL);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn f08_descriptors_on_body_bytes_are_not_used() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let memory = descriptors::memory(0x1000);
    let message = bytes::message(5, 2, 0, &bytes::dma_map(32, 3, 0, 0x1000, 0x1000));
    peer.send(&message[..20]);
    // A byte for byte reader has taken these before the rest comes, so that the rest is a read of its own.
    std::thread::sleep(std::time::Duration::from_millis(50));
    peer.send_with_fds(&message[20..], &[memory.as_fd()]);
    peer.recv().failed(Errno::INVAL);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn f09_descriptors_with_half_a_header_are_closed_at_the_end() {
    let server = Server::start();
    let peer_fd = descriptors::eventfd();
    let fds = [peer_fd.as_fd(); 8];
    let peer = Peer::negotiated(&server);
    peer.send_with_fds(&[1], &fds);
    peer.close_for_writing();
    peer.is_closed();
    server.is_unharmed_by(peer);
}

#[test]
fn f10_full_descriptor_table_is_noticed_and_nothing_leaks() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    server.allow_more_fds(2);
    let fd = descriptors::eventfd();
    peer.send_with_fds(
        &bytes::message(1, 8, 0, &bytes::set_irqs(4 | 32, 2, 0, 8, &[])),
        &[fd.as_fd(); 8],
    );
    peer.is_closed();
    server.is_unharmed_by(peer);
}

#[test]
fn f11_f12_credentials_and_a_second_block_of_descriptors() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let fd = descriptors::eventfd();
    let info = bytes::message(7, 4, 0, &bytes::words(&GET_INFO));
    peer.send_with_credentials(&info, &[fd.as_fd()]);
    assert_eq!(peer.recv().succeeded().id, 7);
    peer.send_with_two_blocks(&info, fd.as_fd());
    assert_eq!(peer.recv().succeeded().id, 7);
    assert_eq!(server.fds(), before);
    server.is_unharmed_by(peer);
}

#[test]
fn f15_every_descriptor_of_the_server_is_close_on_exec() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let fds: Vec<_> = (0..16).map(|_| descriptors::eventfd()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let body = bytes::set_irqs(4 | 32, 2, 0, 16, &[]);
    peer.request_with(8, &body, &borrowed).succeeded();
    assert_eq!(server.fds_that_survive_exec(), Vec::<u32>::new());
}

#[test]
fn f13_own_socket_as_descriptor_does_not_keep_the_connection_open() {
    let server = Server::start();
    let idle = server.fds();
    let peer = Peer::negotiated(&server);
    let copy = peer.stream.try_clone().expect("dup");
    peer.request_with(4, &bytes::words(&GET_INFO), &[copy.as_fd()])
        .succeeded();
    peer.request_with(
        2,
        &bytes::dma_map(32, 3, 0, 0x1000, 0x1000),
        &[copy.as_fd()],
    )
    .failed(Errno::INVAL);
    drop(copy);
    drop(peer);
    server.settles_at_fds(idle);
}

#[test]
fn f16_ten_thousand_unexpected_descriptors_leave_nothing() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let before = server.fds();
    let fd = descriptors::eventfd();
    let fds = [fd.as_fd(); 8];
    for _ in 0..1250 {
        peer.request_with(4, &bytes::words(&GET_INFO), &fds)
            .succeeded();
    }
    assert_eq!(server.fds(), before);
}
