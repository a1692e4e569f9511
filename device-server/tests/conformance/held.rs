//! A3: descriptors whose closing lasts as long as who made them likes, and that a signal ends. `tests/vfio_user/held.rs` has those that none
//! ends, since no process may be started while there is one.

use std::os::fd::{AsFd, OwnedFd};

use harness::raw_peer::lingering;
use protocol::Errno;
use rustix::process::Signal;

use crate::support::{Peer, Server, bytes};

const SET_IRQS: u16 = 8;
const MSIX: u32 = 2;

/// Binds this to a vector, where an eventfd belongs. The server has it before the end of the message, when nobody else has it any more.
fn bind(peer: &Peer, fd: OwnedFd) {
    let body = bytes::set_irqs(4 | 32, MSIX, 0, 1, &[]);
    let message = bytes::message(peer.id(), SET_IRQS, 0, &body);
    peer.send_with_fds(&message[..8], &[fd.as_fd()]);
    drop(fd);
    peer.send(&message[8..]);
}

#[test]
fn f06_socket_that_lingers_holds_up_nobody() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let (socket, _reader) = lingering::tcp_socket().expect("a socket");
    bind(&peer, socket);
    peer.recv().failed(Errno::INVAL);
    peer.is_in_step();
    server.is_unharmed_by(peer);
}

#[test]
fn f06_socket_with_one_in_its_queue_that_lingers_holds_up_nobody() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let (socket, _others) = lingering::unix_socket().expect("a socket");
    bind(&peer, socket);
    peer.recv().failed(Errno::INVAL);
    peer.is_in_step();
    server.is_unharmed_by(peer);
}

#[test]
fn f09_socket_that_lingers_and_is_never_read_holds_up_nobody() {
    let server = Server::start();
    let peer = Peer::negotiated(&server);
    let (socket, _reader) = lingering::tcp_socket().expect("a socket");
    // What the server reads first ends the connection, and what comes with the second it never takes.
    server.stop();
    peer.send(&[0xff; 16]);
    peer.send_with_fds(&[0; 8], &[socket.as_fd()]);
    drop(socket);
    server.signal(Signal::CONT);
    peer.is_closed();
    server.is_unharmed_by(peer);
}
