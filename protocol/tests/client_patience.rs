//! What a client waits for while it serves its server, and what it never waits for.
//! Names begin with the rows of conformance.md (B5) that they cover.

#![cfg(test)]

mod peers;

use peers::script::{DEADLINE, config, connect};
use peers::zeroes::Zeroes;
use peers::{COMMAND, REPLY, RawPeer, message, version_body};
use protocol::{
    Client, ClientConfig, ClientError, CommandCode, DmaHandler, DmaMapFlags, Errno, Iova,
    IovaRange, LostCause, RegionIndex, limits,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

fn with_memory() -> ClientConfig {
    ClientConfig {
        dma_handler: Some(Arc::new(Zeroes)),
        ..config()
    }
}

fn page(index: u64) -> IovaRange {
    IovaRange::new(Iova(index * 0x1000), 0x1000).unwrap()
}

/// A client whose server reads nothing any more and whose socket is full, and that server.
fn full(config: ClientConfig) -> (Client, RawPeer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let same = OwnedFd::from(ours.try_clone().unwrap());
    let peer = RawPeer::over(theirs);
    let thread = std::thread::spawn(move || {
        peer.accept();
        peer
    });
    let client = Client::connect(ours.into(), config).unwrap();
    let peer = thread.join().unwrap();
    let flags = rustix::net::SendFlags::DONTWAIT;
    for junk in [4096, 1] {
        while rustix::net::send(&same, &vec![0; junk], flags).is_ok() {}
    }
    (client, peer)
}

#[test]
fn server_that_asks_and_does_not_take_the_answers_never_holds_up_the_event_loop() {
    let (client, peer) = full(with_memory());
    peer.send(&message(1, 11, COMMAND, &bytes![0u64, 4u64]));
    let start = Instant::now();
    let lost = client.service().unwrap_err();
    let late = LostCause::Deadline {
        command: CommandCode::DMA_READ,
    };
    assert_eq!(lost, ClientError::Lost(late));
    assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
}

#[test]
fn event_loop_does_not_wait_for_a_thread_that_finds_the_socket_full() {
    let (client, peer) = full(with_memory());
    std::thread::scope(|scope| {
        let write = scope.spawn(|| client.region_write_posted(RegionIndex::BAR0, 0, &[1; 4]));
        while client.counters().of(CommandCode::REGION_WRITE) == 0 {
            std::thread::yield_now();
        }
        peer.send(&message(1, 11, COMMAND, &bytes![0u64, 4u64]));
        let start = Instant::now();
        client.service().unwrap_err();
        assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
        write.join().unwrap().unwrap_err();
    });
}

#[test]
fn map_that_may_take_long_does_not_hold_the_socket_longer_than_an_access() {
    let (client, _peer) = full(config());
    let terabyte = IovaRange::new(Iova(0), 1 << 40).unwrap();
    let start = Instant::now();
    let flags = DmaMapFlags::READ;
    client.dma_map(terabyte, flags, None).unwrap_err();
    assert!(start.elapsed() < 3 * DEADLINE, "{:?}", start.elapsed());
}

/// Memory whose first write waits until the test lets it go on.
struct SlowMemory {
    began: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl DmaHandler for SlowMemory {
    fn read(&self, _address: Iova, _data: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, _address: Iova, _data: &[u8]) -> Result<(), Errno> {
        self.began.lock().unwrap().send(()).unwrap();
        let _told = self.go_on.lock().unwrap().recv();
        Ok(())
    }
}

/// Answers VERSION with a twin socket.
fn accept_with_twin(peer: &RawPeer, twin: UnixStream) {
    let version = peer.recv();
    let json = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"#;
    let reply = message(version.id, 1, REPLY, &version_body(0, 1, json));
    peer.send_with_fds(&reply, &[twin.as_fd()]);
}

#[test]
fn end_of_the_main_socket_beside_a_twin_that_stays_is_seen_by_the_event_loop() {
    let (twin_ours, twin_theirs) = UnixStream::pair().unwrap();
    let (client, thread) = connect(with_memory(), move |peer| {
        accept_with_twin(peer, twin_theirs);
        peer.stream.shutdown(Shutdown::Both).unwrap();
    });
    let client = client.unwrap();
    client.rely_on_service().unwrap();
    let start = Instant::now();
    let error = loop {
        let two_ticks = Timespec::try_from(2 * limits::WATCH_PERIOD).unwrap();
        let mut watched = [PollFd::from_borrowed_fd(client.poll_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut watched, Some(&two_ticks)), Ok(1));
        if let Err(error) = client.service() {
            break error;
        }
    };
    assert_eq!(error, ClientError::Lost(LostCause::Closed));
    assert!(start.elapsed() < 3 * limits::WATCH_PERIOD);
    thread.join().unwrap();
    drop(twin_ours);
}

#[test]
fn t13_unmap_returns_only_when_nobody_touches_the_memory_any_more() {
    let (began, has_begun) = channel();
    let (go_on, told) = channel();
    let slow = Arc::new(SlowMemory {
        began: Mutex::new(began),
        go_on: Mutex::new(told),
    });
    let (twin_ours, twin_theirs) = UnixStream::pair().unwrap();
    let (client, thread) = connect(
        ClientConfig {
            dma_handler: Some(slow),
            ..config()
        },
        move |peer| {
            accept_with_twin(peer, twin_theirs);
            let map = peer.recv();
            peer.answer(&map, &[]);
            let unmap = peer.recv();
            peer.answer(&unmap, &unmap.body);
            peer.serve_reads();
        },
    );
    let client = Arc::new(client.unwrap());
    let flags = DmaMapFlags::READ_WRITE;
    client.dma_map(page(0), flags, None).unwrap();
    client.rely_on_service().unwrap();
    let twin = RawPeer::over(twin_ours);
    let write = [&bytes![0u64, 1u64][..], &[7]].concat();
    twin.send(&message(1, 12, COMMAND, &write));
    let served = Arc::clone(&client);
    let server = std::thread::spawn(move || served.service());
    has_begun.recv().unwrap();
    let unmapping = Arc::clone(&client);
    let unmapped = std::thread::spawn(move || unmapping.dma_unmap(page(0)));
    while client.counters().of(CommandCode::DMA_UNMAP) == 0 {
        std::thread::yield_now();
    }
    std::thread::park_timeout(DEADLINE / 5);
    assert!(!unmapped.is_finished(), "a write is still on its way");
    go_on.send(()).unwrap();
    unmapped.join().unwrap().unwrap();
    server.join().unwrap().unwrap();
    drop(client);
    thread.join().unwrap();
}
