//! The client as the one who is asked: DMA_READ and DMA_WRITE of a hostile server.
//! Names begin with the rows of conformance.md (B5) that they cover.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

mod peers;

use peers::script::{DEADLINE, config, connect, read};
use peers::{COMMAND, NO_REPLY, Probe, REPLY, RawPeer, Received, message, version_body};
use protocol::{
    Client, ClientConfig, ClientError, CommandCode, DmaHandler, DmaMapFlags, Errno, Iova,
    IovaRange, LostCause, RegionIndex,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const EINVAL: u32 = 22;
const EFAULT: u32 = 14;
const EPERM: u32 = 1;
const ENOTSUP: u32 = 95;

/// Memory from address 0 on: readable and writable, then read-only, then write-only, one page each; a hole; one page.
struct Memory(Mutex<Vec<u8>>);

impl DmaHandler for Memory {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        let at = address.0 as usize;
        data.copy_from_slice(&self.0.lock().unwrap()[at..at + data.len()]);
        Ok(())
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        let at = address.0 as usize;
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory(Mutex::new(
        (0..0x5000u32).map(|at| at as u8).collect(),
    )))
}

fn page(index: u64) -> IovaRange {
    IovaRange::new(Iova(index * 0x1000), 0x1000).unwrap()
}

fn with_memory(memory: &Arc<Memory>) -> ClientConfig {
    ClientConfig {
        dma_handler: Some(memory.clone()),
        ..config()
    }
}

/// Maps the pages, then reads once: the script gets that read and asks what it likes before it answers.
fn asked(config: ClientConfig, script: impl FnOnce(&RawPeer) + Send + 'static) {
    let (client, thread) = connect(config, |peer| {
        peer.accept();
        let read = loop {
            let request = peer.recv();
            if request.command == 9 {
                break request;
            }
            peer.answer(&request, &[]);
        };
        script(peer);
        let mut body = read.body.clone();
        body.extend([1; 4]);
        peer.answer(&read, &body);
        peer.serve_reads();
    });
    let client = client.unwrap();
    map_all(&client);
    assert_eq!(read(&client), Ok([1; 4]));
    assert_eq!(read(&client), Ok([0; 4]));
    drop(client);
    thread.join().unwrap();
}

fn map_all(client: &Client) {
    let flags = [
        (0, DmaMapFlags::READ_WRITE),
        (1, DmaMapFlags::READ),
        (2, DmaMapFlags::WRITE),
        (4, DmaMapFlags::READ_WRITE),
    ];
    for (index, flags) in flags {
        client.dma_map(page(index), flags, None).unwrap();
    }
}

fn dma_read(peer: &RawPeer, address: u64, count: u64) -> Received {
    peer.ask(0x4242, 11, &bytes![address, count])
}

fn dma_write(peer: &RawPeer, address: u64, data: &[u8]) -> Received {
    let mut body = bytes![address, data.len() as u64];
    body.extend(data);
    peer.ask(0x4242, 12, &body)
}

#[test]
fn t01_t02_t05_t08_t15_mapped_memory_is_reached_while_we_wait() {
    let memory = memory();
    asked(with_memory(&memory), |peer| {
        let read = dma_read(peer, 0xff0, 0x20);
        assert_eq!(read.body[..16], bytes![0xff0u64, 0x20u64]);
        let wanted: Vec<u8> = (0xff0..0x1010u32).map(|at| at as u8).collect();
        assert_eq!(read.body[16..], wanted);
        let write = dma_write(peer, 0x10, &[0xee; 5]);
        assert_eq!((write.errno(), write.body), (0, bytes![0x10u64, 5u64]));
        assert_eq!(dma_read(peer, 0x9999_0000, 0).body.len(), 16);
        assert_eq!(dma_write(peer, 0x10, &[]).errno(), 0);
    });
    assert_eq!(
        memory.0.lock().unwrap()[0x0f..0x16],
        [0x0f, 0xee, 0xee, 0xee, 0xee, 0xee, 0x15]
    );
}

#[test]
fn t03_t04_t06_t07_t09_t10_what_is_not_mapped_so_is_refused() {
    let memory = memory();
    let before = memory.0.lock().unwrap().clone();
    asked(with_memory(&memory), |peer| {
        for (address, count, errno) in [
            (0x3000, 4, EFAULT),
            (0x5000, 4, EFAULT),
            (0x4ffe, 4, EFAULT),
            (0x2000, 4, EPERM),
            (0x1fff, 2, EPERM),
            (u64::MAX - 1, 4, EINVAL),
            (0, (1 << 20) + 1, EINVAL),
            (0, 1 << 32, EINVAL),
            (0, 1 << 63, EINVAL),
            (0, u64::MAX, EINVAL),
        ] {
            assert_eq!(dma_read(peer, address, count).errno(), errno);
        }
        for (address, errno) in [(0x1000, EPERM), (0xffe, EPERM), (0x2ffe, EFAULT)] {
            assert_eq!(dma_write(peer, address, &[0xee; 4]).errno(), errno);
        }
    });
    assert_eq!(*memory.0.lock().unwrap(), before);
}

#[test]
fn t11_t12_t16_t17_request_that_does_not_hold_together_is_einval() {
    let memory = memory();
    asked(with_memory(&memory), |peer| {
        let body = bytes![0u64, 4u64];
        for data in [&[][..], &[1; 3], &[1; 5]] {
            let write = [&body[..], data].concat();
            assert_eq!(peer.ask(1, 12, &write).errno(), EINVAL);
        }
        for bytes in 0..16 {
            assert_eq!(peer.ask(1, 11, &body[..bytes]).errno(), EINVAL);
            assert_eq!(peer.ask(1, 12, &body[..bytes]).errno(), EINVAL);
        }
        for command in (0..11).chain(13..20).chain([65535]) {
            assert_eq!(peer.ask(1, command, &body).errno(), EINVAL);
        }
        let probe = Probe::new();
        let fds = [probe.fd(); 2];
        assert_eq!(peer.ask_with_fds(1, 11, &body, &fds).errno(), EINVAL);
        probe.expect_closed();
        assert_eq!(dma_read(peer, 0, 4).errno(), 0);
    });
}

#[test]
fn t18_no_reply_is_honoured() {
    let memory = memory();
    asked(with_memory(&memory), |peer| {
        let mut write = bytes![0x20u64, 1u64];
        write.push(0x77);
        peer.send(&message(1, 12, NO_REPLY, &write));
        peer.send(&message(2, 11, NO_REPLY, &bytes![0u64, 4u64]));
        peer.send(&message(3, 11, NO_REPLY, &bytes![0x3000u64, 4u64]));
        let read = dma_read(peer, 0x20, 1);
        assert_eq!(read.body[16], 0x77);
    });
}

#[test]
fn client_without_memory_refuses_with_enotsup() {
    asked(config(), |peer| {
        assert_eq!(dma_read(peer, 0, 4).errno(), ENOTSUP);
        assert_eq!(dma_write(peer, 0, &[1]).errno(), ENOTSUP);
        assert_eq!(dma_read(peer, 0, u64::MAX).errno(), EINVAL);
    });
}

#[test]
fn t13_t14_memory_is_reached_until_the_unmap_is_answered() {
    let memory = memory();
    let (client, thread) = connect(with_memory(&memory), |peer| {
        peer.accept();
        let unmap = loop {
            let request = peer.recv();
            if request.command == 3 {
                break request;
            }
            peer.answer(&request, &[]);
        };
        assert_eq!(dma_read(peer, 0, 4).errno(), 0);
        peer.answer(&unmap, &unmap.body);
        let read = peer.recv();
        assert_eq!(dma_read(peer, 0, 4).errno(), EFAULT);
        let mut body = read.body.clone();
        body.extend([1; 4]);
        peer.answer(&read, &body);
    });
    let client = client.unwrap();
    map_all(&client);
    client.dma_unmap(page(0)).unwrap();
    assert_eq!(read(&client), Ok([1; 4]));
    thread.join().unwrap();
}

#[test]
fn b08_b09_map_and_unmap_that_are_refused_say_so() {
    let memory = memory();
    let (client, thread) = connect(with_memory(&memory), |peer| {
        peer.accept();
        let map = peer.recv();
        peer.refuse(&map, 17);
        let map = peer.recv();
        peer.answer(&map, &[]);
        let unmap = peer.recv();
        peer.refuse(&unmap, 2);
        // The memory still counts as shared.
        let read = peer.recv();
        assert_eq!(dma_read(peer, 0, 4).errno(), 0);
        let mut body = read.body.clone();
        body.extend([1; 4]);
        peer.answer(&read, &body);
    });
    let client = client.unwrap();
    let flags = DmaMapFlags::READ_WRITE;
    let errno = |error: ClientError| {
        if let ClientError::Refused { errno, .. } = error {
            return errno;
        }
        panic!("{error}");
    };
    assert_eq!(
        errno(client.dma_map(page(0), flags, None).unwrap_err()),
        Errno::EXIST
    );
    client.dma_map(page(0), flags, None).unwrap();
    assert_eq!(errno(client.dma_unmap(page(0)).unwrap_err()), Errno::NOENT);
    assert_eq!(read(&client), Ok([1; 4]));
    thread.join().unwrap();
}

#[test]
fn t19_flood_of_requests_does_not_stop_the_clock() {
    // With the kernel's timer, and without it and without an event loop that looks.
    for relies in [false, true] {
        let memory = memory();
        let (client, thread) = connect(with_memory(&memory), |peer| {
            peer.accept();
            peer.recv();
            let request = message(1, 11, NO_REPLY, &bytes![0u64, 4u64]);
            while std::io::Write::write_all(&mut &peer.stream, &request).is_ok() {}
        });
        let client = client.unwrap();
        if relies {
            client.rely_on_service().unwrap();
        }
        let start = Instant::now();
        let error = read(&client).unwrap_err();
        let late = LostCause::Deadline {
            command: CommandCode::REGION_READ,
        };
        assert_eq!(error, ClientError::Lost(late));
        assert!(start.elapsed() < 3 * DEADLINE);
        thread.join().unwrap();
    }
}

#[test]
fn requests_while_idle_are_answered_by_service() {
    let memory = memory();
    let (client, thread) = connect(with_memory(&memory), |peer| {
        peer.accept();
        let map = peer.recv();
        peer.answer(&map, &[]);
        assert_eq!(dma_read(peer, 0, 4).errno(), 0);
        assert!(peer.try_recv().is_none());
    });
    let client = client.unwrap();
    client.dma_map(page(0), DmaMapFlags::READ, None).unwrap();
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        client.poll_fd(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, None).unwrap();
    client.service().unwrap();
    assert_eq!(client.counters().of(CommandCode::DMA_READ), 1);
    drop(client);
    thread.join().unwrap();
}

/// A client with a twin socket, whose server's end is given to the script.
fn twin(script: impl FnOnce(&RawPeer, &RawPeer) + Send + 'static) -> Client {
    let memory = memory();
    let (client, _thread) = connect(with_memory(&memory), |peer| {
        let version = peer.recv();
        assert!(String::from_utf8_lossy(&version.body).contains("twin_socket"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let json = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"#;
        let reply = message(version.id, 1, REPLY, &version_body(0, 1, json));
        peer.send_with_fds(&reply, &[theirs.as_fd()]);
        drop(theirs);
        let map = peer.recv();
        peer.answer(&map, &[]);
        let twin = RawPeer::over(ours);
        script(peer, &twin);
        peer.serve_reads();
    });
    let client = client.unwrap();
    client
        .dma_map(page(0), DmaMapFlags::READ_WRITE, None)
        .unwrap();
    client
}

#[test]
fn twin_requests_are_answered_on_the_twin_while_we_wait() {
    let client = twin(|peer, twin| {
        let write = peer.recv();
        assert_eq!(dma_read(twin, 0, 4).body.len(), 20);
        assert_eq!(dma_read(twin, 0x8000, 4).errno(), EFAULT);
        peer.answer(&write, &write.body[..16]);
    });
    client.region_write(RegionIndex::BAR0, 0, &[1; 4]).unwrap();
    assert_eq!(read(&client), Ok([0; 4]));
}

#[test]
fn twin_requests_are_answered_by_service_where_accesses_rely_on_it() {
    let client = Arc::new(twin(|peer, twin| {
        let write = peer.recv();
        assert_eq!(dma_read(twin, 0, 4).body.len(), 20);
        peer.answer(&write, &write.body[..16]);
    }));
    client.rely_on_service().unwrap();
    let served = Arc::clone(&client);
    std::thread::spawn(move || while served.service().is_ok() {});
    client.region_write(RegionIndex::BAR0, 0, &[1; 4]).unwrap();
    client.shutdown();
}

#[test]
fn t20_request_on_the_main_socket_beside_a_twin_loses_the_device() {
    let client = twin(|peer, _twin| {
        peer.recv();
        peer.send(&message(1, 11, COMMAND, &bytes![0u64, 4u64]));
        peer.is_closed();
    });
    let error = read(&client).unwrap_err();
    assert!(matches!(
        error,
        ClientError::Lost(LostCause::Protocol { .. })
    ));
}

#[test]
fn t21_answer_on_the_twin_loses_the_device() {
    let client = twin(|peer, twin| {
        let read = peer.recv();
        let mut body = read.body.clone();
        body.extend([1; 4]);
        twin.answer(&read, &body);
        twin.is_closed();
    });
    let error = read(&client).unwrap_err();
    assert!(matches!(
        error,
        ClientError::Lost(LostCause::Protocol { .. })
    ));
}
