//! Once a connection has been used, a message costs neither side an allocation.

#![cfg(test)]

mod peers;

use allocation_counter::{AllocationInfo, measure};
use peers::zeroes::Zeroes;
use protocol::messages::region::RegionAccess;
use protocol::messages::{TwinSocket, dma::DmaMapFlags};
use protocol::server::{Connection, Event, Request, ServerConfig};
use protocol::{Client, ClientConfig, Command, Iova, IovaRange, RegionIndex, Reply};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

const BAR0: RegionIndex = RegionIndex::BAR0;
const WARM_UP: u32 = 4;
const MEASURED: u32 = 100;
/// A write here makes the device read and write client memory by messages.
const DOORBELL: u64 = 0x100;

/// What a request left to do once it no longer borrows the connection.
enum Work {
    Read(RegionAccess),
    Write(RegionAccess),
    Multi(u64),
    Other,
    Closed,
}

/// Takes and answers one request; false when the connection has ended.
fn serve_one(connection: &mut Connection) -> bool {
    let (token, work) = match connection.next_event() {
        Event::Request(Request { token, command }) => (token, work(&command)),
        Event::Refused(refusal) => panic!("{refusal:?}"),
        Event::Closed(_) => return false,
    };
    let answer = match work {
        Work::Read(access) => Reply::RegionRead {
            region: access.region,
            offset: access.offset,
            data: &[0; 8][..access.count as usize],
        },
        Work::Write(access) => {
            if access.offset == DOORBELL {
                let mut data = [0; 16];
                connection.dma_read(Iova(0x1000), &mut data).unwrap();
                connection.dma_write(Iova(0x1000), &data).unwrap();
            }
            Reply::RegionWrite(access)
        }
        Work::Multi(done) => Reply::RegionWriteMulti(done),
        Work::Other => Reply::Done,
        Work::Closed => return false,
    };
    connection.reply(token, answer).unwrap();
    true
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the tests send nothing else"
)]
fn work(command: &Command<'_>) -> Work {
    match command {
        Command::RegionRead(access) => Work::Read(*access),
        Command::RegionWrite(write) => Work::Write(RegionAccess {
            region: write.region,
            offset: write.offset,
            count: u32::try_from(write.data.len()).unwrap(),
        }),
        Command::RegionWriteMulti(multi) => Work::Multi(multi.entries().count() as u64),
        Command::DmaMap(_) => Work::Other,
        _ => Work::Closed,
    }
}

/// A server that serves `before` requests, then counts what `measured` more cost it, then serves on.
fn serve(socket: OwnedFd, twin: bool, before: u32, measured: u32) -> JoinHandle<AllocationInfo> {
    std::thread::spawn(move || {
        let mut config = ServerConfig::standard();
        if twin {
            config.capabilities.twin_socket = TwinSocket::Supported;
        }
        let mut connection = Connection::new(socket, config).unwrap();
        for _ in 0..before {
            assert!(serve_one(&mut connection));
        }
        let cost = measure(|| {
            for _ in 0..measured {
                assert!(serve_one(&mut connection));
            }
        });
        while serve_one(&mut connection) {}
        cost
    })
}

/// The messages of a trapped access, and DMA messages.
const ACCESSES: u32 = 5;

fn access_all(client: &Client) {
    client.region_read(BAR0, 0, &mut [0; 4]).unwrap();
    client.region_read(BAR0, 0, &mut [0; 8]).unwrap();
    client.region_write(BAR0, 0, &[1; 4]).unwrap();
    client.region_write_posted(BAR0, 0, &[1; 8]).unwrap();
    client.region_write(BAR0, DOORBELL, &[1; 4]).unwrap();
}

fn accesses_cost_nothing(twin: bool) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let before = 1 + WARM_UP * ACCESSES;
    let server = serve(theirs.into(), twin, before, MEASURED * ACCESSES);
    let config = ClientConfig {
        dma_handler: Some(Arc::new(Zeroes)),
        ..ClientConfig::standard()
    };
    let client = Client::connect(ours.into(), config).unwrap();
    let range = IovaRange::new(Iova(0x1000), 0x1000).unwrap();
    client
        .dma_map(range, DmaMapFlags::READ_WRITE, None)
        .unwrap();
    (0..WARM_UP).for_each(|_| access_all(&client));
    let cost = measure(|| (0..MEASURED).for_each(|_| access_all(&client)));
    drop(client);
    assert_eq!(cost.count_total, 0, "the client: {cost:?}");
    let cost = server.join().unwrap();
    assert_eq!(cost.count_total, 0, "the server: {cost:?}");
}

#[test]
fn accesses_and_dma_messages_allocate_nothing() {
    accesses_cost_nothing(false);
}

#[test]
fn accesses_and_dma_messages_on_a_twin_allocate_nothing() {
    accesses_cost_nothing(true);
}

#[test]
fn write_multi_allocates_nothing_in_the_server() {
    let (peer, socket) = peers::RawPeer::pair();
    let server = serve(socket, false, WARM_UP, MEASURED);
    peer.negotiate();
    let entry = harness::raw_peer::bytes::write_entry(0, 0, 4, 7);
    let body = [&3u64.to_ne_bytes()[..], &entry, &entry, &entry].concat();
    for _ in 0..WARM_UP + MEASURED {
        peer.request(15, &body).succeeded();
    }
    drop(peer);
    let cost = server.join().unwrap();
    assert_eq!(cost.count_total, 0, "{cost:?}");
}
