//! The client leaves, or says no more, after every byte of every message.

use std::os::fd::{AsFd, BorrowedFd};

use crate::support::{Peer, Server, bytes, descriptors};

const ALL: &str = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;

/// Every command that the server takes after VERSION, as a whole message, and how many descriptors it carries.
fn messages() -> Vec<(Vec<u8>, usize)> {
    let multi = [&1u64.to_ne_bytes()[..], &bytes::write_entry(2, 8, 4, 7)].concat();
    let bodies = [
        (2, bytes::dma_map(32, 3, 0, 0x8000, 0x1000), 1),
        (3, bytes::dma_unmap(24, 0, 0x1000, 0x1000), 0),
        (4, bytes::words(&[16, 0, 0, 0]), 0),
        (5, bytes::region_info(4096, 0), 0),
        (6, bytes::words(&[96, 0, 2, 0]), 0),
        (7, bytes::words(&[16, 0, 2, 0]), 0),
        (8, bytes::set_irqs(4 | 32, 2, 0, 2, &[]), 2),
        (8, bytes::set_irqs(2 | 32, 2, 0, 2, &[1, 1]), 0),
        (9, bytes::access(2, 8, 4, &[]), 0),
        (10, bytes::access(2, 8, 4, &[1, 2, 3, 4]), 0),
        (13, Vec::new(), 0),
        (15, multi, 0),
        (16, bytes::words(&[16, 1 | 1 << 16, 0, 0]), 0),
        (17, bytes::words(&[16, 8]), 0),
        (18, bytes::words(&[12, 4, 0]), 0),
    ];
    let whole =
        |(command, body, fds): (u16, Vec<u8>, usize)| (bytes::message(9, command, 0, &body), fds);
    bodies.map(whole).to_vec()
}

/// Sends the message cut off at every byte: once the end of what we say follows, once the end of the connection.
fn ends_in(server: &Server, connect: impl Fn() -> Peer, message: &[u8], fds: &[BorrowedFd<'_>]) {
    for end in 1..message.len() {
        let silent = connect();
        silent.send_with_fds(&message[..end], fds);
        silent.close_for_writing();
        silent.is_closed();
        drop(silent);
        connect().send_with_fds(&message[..end], fds);
    }
    server.is_unharmed_by(Peer::negotiated(server));
}

#[test]
fn h25_h26_f09_l02_end_after_every_byte_of_every_message_is_cleaned_up() {
    let server = Server::start();
    let sent = descriptors::eventfd();
    for (message, fds) in messages() {
        let connect = || Peer::negotiated_with(&server, ALL);
        ends_in(&server, connect, &message, &vec![sent.as_fd(); fds]);
    }
    let version = bytes::message(9, 1, 0, &bytes::version(0, 1, ALL));
    ends_in(
        &server,
        || Peer::connect(&server),
        &version,
        &[sent.as_fd()],
    );
    let peer = Peer::negotiated(&server);
    let scratch = peer.read_u32(2, 8);
    assert_eq!(scratch, 0, "nothing was executed in part");
    server.is_unharmed_by(peer);
}
