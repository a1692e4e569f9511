//! A11: disconnect, reconnect, reset, restart.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use protocol::Errno;
use rustix::process::Signal;
use sandbox::prepare::Ending;

use crate::dma_map::dma_copy;
use crate::support::{Peer, Server, bytes, descriptors};

const REGISTERS: u32 = 2;

/// A client with memory, an interrupt and a value in a register.
pub(crate) fn busy_client(server: &Server) -> (Peer, std::os::fd::OwnedFd) {
    let peer = Peer::negotiated(server);
    peer.map(0x1000, 0x2000, &descriptors::memory(0x2000))
        .succeeded();
    let event = descriptors::eventfd();
    let body = bytes::set_irqs(4 | 32, 2, 0, 1, &[]);
    peer.request_with(8, &body, &[event.as_fd()]).succeeded();
    peer.region_write(REGISTERS, 8, &[0x5a; 4]).succeeded();
    peer.region_write(7, 4, &[4]).succeeded();
    (peer, event)
}

#[test]
fn l01_l04_l05_l06_nothing_of_a_client_is_left_for_the_next() {
    let server = Server::start();
    let idle = server.fds();
    let (peer, event) = busy_client(&server);
    drop(peer);
    server.settles_at_fds(idle);
    assert_eq!(server.mappings_of("bulkhead-client-memory"), 0);
    let next = Peer::negotiated(&server);
    assert_eq!(next.read_u32(REGISTERS, 8), 0, "the device was reset");
    next.region_write(7, 4, &[4]).succeeded();
    assert_eq!(dma_copy(&next, 0x1000, 0x2000, 4), 2 | 14 << 16);
    next.region_write(REGISTERS, 0x10, &(2u32 << 16).to_le_bytes())
        .succeeded();
    assert_eq!(descriptors::fired(&event), 0);
    next.map(0x1000, 0x2000, &descriptors::memory(0x2000))
        .succeeded();
}

#[test]
fn l02_disconnect_with_a_command_half_sent() {
    let server = Server::start();
    let idle = server.fds();
    for length in [1, 16, 20, 30] {
        let (peer, _event) = busy_client(&server);
        let message = bytes::message(1, 2, 0, &bytes::dma_map(32, 3, 0, 0x8000, 0x1000));
        peer.send_with_fds(&message[..length], &[descriptors::memory(0x1000).as_fd()]);
        drop(peer);
        server.settles_at_fds(idle);
    }
    Peer::negotiated(&server).is_in_step();
}

#[test]
fn l07_reset_keeps_maps_and_interrupts() {
    let server = Server::start();
    let (peer, event) = busy_client(&server);
    peer.request(13, &[]).succeeded();
    assert_eq!(peer.read_u32(REGISTERS, 8), 0);
    peer.region_write(7, 4, &[4]).succeeded();
    assert_eq!(dma_copy(&peer, 0x1000, 0x2000, 4), 1);
    peer.region_write(REGISTERS, 0x10, &(2u32 << 16).to_le_bytes())
        .succeeded();
    assert_eq!(descriptors::fired(&event), 1);
}

#[test]
fn l10_function_level_reset_through_config_space() {
    let server = Server::start();
    let (peer, _event) = busy_client(&server);
    peer.region_write(7, 0x70, &[0, 0x80]).succeeded();
    assert_eq!(peer.read_u32(REGISTERS, 8), 0);
    assert_eq!(peer.read_u32(7, 4) & 0xffff, 0, "bus mastering is off");
}

#[test]
fn l12_signals_end_the_server_and_remove_the_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut idle = Server::start();
        idle.signal(signal);
        assert_eq!(idle.wait(), Ending::Exited(0));
        assert!(!idle.path().exists());
        let mut serving = Server::start();
        let (peer, _event) = busy_client(&serving);
        serving.signal(signal);
        assert_eq!(serving.wait(), Ending::Exited(0));
        assert!(!serving.path().exists());
        assert!(peer.try_recv().is_none());
    }
}

#[test]
fn inherited_connection_is_served_once_and_then_the_process_ends() {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut server = Server::start_connected(theirs.into());
    let peer = Peer::over(ours);
    peer.request(1, &bytes::version(0, 1, "{}")).succeeded();
    peer.is_in_step();
    peer.region_read(REGISTERS, 4096, 1).failed(Errno::INVAL);
    drop(peer);
    assert_eq!(server.wait(), Ending::Exited(0));
}

#[test]
fn inherited_listening_socket_is_served_for_ever() {
    let directory = Server::start();
    let path = directory.path().with_extension("second");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let mut server = Server::start_connected(listener.into());
    for _ in 0..3 {
        let peer = Peer::over(UnixStream::connect(&path).expect("connect"));
        peer.request(1, &bytes::version(0, 1, "{}")).succeeded();
    }
    assert!(server.is_running());
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Ending::Exited(0));
    assert!(path.exists(), "somebody else's socket is not removed");
}
