//! The client and the server's side of this crate, talking to each other.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

mod peers;

use peers::device::{BAR_BYTES, DMA_DOORBELL, DMA_SOURCE, memfd, serve};
use protocol::messages::write_multi::WriteMultiEntry;
use protocol::messages::{Feature, TwinSocket};
use protocol::server::ServerConfig;
use protocol::{
    Client, ClientConfig, ClientError, CommandCode, DmaHandler, DmaMapFlags, Errno, Iova,
    IovaRange, IrqAction, IrqIndex, RegionFlags, RegionIndex,
};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

fn sockets() -> (OwnedFd, OwnedFd) {
    let (a, b) = UnixStream::pair().unwrap();
    (a.into(), b.into())
}

fn connected(
    config: ClientConfig,
    server: ServerConfig,
) -> (Client, std::thread::JoinHandle<peers::device::Log>) {
    let (ours, theirs) = sockets();
    let thread = serve(theirs, server);
    (Client::connect(ours, config).unwrap(), thread)
}

fn standard() -> (Client, std::thread::JoinHandle<peers::device::Log>) {
    connected(ClientConfig::standard(), ServerConfig::standard())
}

/// 64 KiB of guest memory from `DMA_SOURCE` on.
struct Memory(Mutex<Vec<u8>>);

impl DmaHandler for Memory {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        let at = (address.0 - DMA_SOURCE) as usize;
        data.copy_from_slice(&self.0.lock().unwrap()[at..at + data.len()]);
        Ok(())
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        let at = (address.0 - DMA_SOURCE) as usize;
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn pair_queries_are_answered() {
    let (client, _server) = standard();
    let info = client.device_info().unwrap();
    assert!(info.reset && info.pci);
    let bar = client.region_info(RegionIndex::BAR0).unwrap();
    assert_eq!(bar.size, BAR_BYTES);
    assert!(bar.flags.contains(RegionFlags::MMAP | RegionFlags::CAPS));
    assert_eq!(bar.areas.len(), 1);
    assert!(bar.fd.is_some());
    let config = client.region_info(RegionIndex::CONFIG).unwrap();
    assert!(config.fd.is_none() && config.areas.is_empty());
    assert_eq!(client.region_info(RegionIndex::BAR5).unwrap().size, 0);
    assert_eq!(client.irq_info(IrqIndex::MSIX).unwrap().count, 40);
    assert_eq!(
        client.device_feature(&Feature::GetMigration, 8),
        Err(ClientError::Refused {
            command: CommandCode::DEVICE_FEATURE,
            errno: Errno::NOTSUP
        })
    );
}

#[test]
fn pair_accesses_reach_the_region() {
    let (client, server) = standard();
    client
        .region_write(RegionIndex::BAR0, 0x10, &[1, 2, 3, 4])
        .unwrap();
    client
        .region_write_posted(RegionIndex::BAR0, 0x14, &[5, 6, 7, 8])
        .unwrap();
    let entries = [WriteMultiEntry {
        region: RegionIndex::BAR0,
        offset: 0x18,
        data: &[9],
    }];
    assert_eq!(client.region_write_multi(&entries), Ok(1));
    let mut data = [0; 9];
    client
        .region_read(RegionIndex::BAR0, 0x10, &mut data)
        .unwrap();
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut outside = [0; 4];
    let refused = client.region_read(RegionIndex::BAR0, BAR_BYTES - 2, &mut outside);
    assert!(matches!(refused, Err(ClientError::Refused { .. })));
    assert_eq!(client.counters().of(CommandCode::REGION_READ), 2);
    assert_eq!(client.counters().of(CommandCode::REGION_WRITE), 2);
    client.reset().unwrap();
    drop(client);
    assert_eq!(server.join().unwrap().resets, 1);
}

#[test]
fn pair_eventfds_go_in_chunks_of_what_the_server_takes() {
    let (client, server) = standard();
    let fds: Vec<OwnedFd> = (0..40)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
        .collect();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client
        .set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &fds)
        .unwrap();
    client.clear_irqs_eventfds(IrqIndex::MSIX, 3, 2).unwrap();
    client.disable_irqs(IrqIndex::MSIX).unwrap();
    drop(client);
    assert_eq!(
        server.join().unwrap().set_irqs,
        [
            (2, 0, 16, 16),
            (2, 16, 16, 16),
            (2, 32, 8, 8),
            (2, 3, 2, 0),
            (2, 0, 0, 0)
        ]
    );
}

#[test]
fn pair_maps_come_and_go() {
    let (client, server) = standard();
    let file = memfd(0x10000);
    let range = IovaRange::new(Iova(0), 0x10000).unwrap();
    client
        .dma_map(range, DmaMapFlags::READ_WRITE, Some((file.as_fd(), 0)))
        .unwrap();
    client.dma_unmap(range).unwrap();
    client.dma_map(range, DmaMapFlags::READ, None).unwrap();
    client.dma_unmap_all().unwrap();
    drop(client);
    assert_eq!(server.join().unwrap().maps, 2);
}

/// The device copies 100 bytes of our memory by messages while our write is not answered yet.
fn message_dma(twin: bool) {
    let mut memory = vec![0; 0x10000];
    for (at, byte) in memory.iter_mut().enumerate().take(0x1000) {
        *byte = at as u8;
    }
    let memory = Arc::new(Memory(Mutex::new(memory)));
    let config = ClientConfig {
        dma_handler: Some(memory.clone()),
        ..ClientConfig::standard()
    };
    let mut server = ServerConfig::standard();
    if twin {
        server.capabilities.twin_socket = TwinSocket::Supported;
    }
    let (client, _server) = connected(config, server);
    assert_eq!(
        matches!(client.server_capabilities().twin_socket, TwinSocket::Fd(_)),
        twin
    );
    let range = IovaRange::new(Iova(DMA_SOURCE), 0x10000).unwrap();
    client
        .dma_map(range, DmaMapFlags::READ_WRITE, None)
        .unwrap();
    client
        .region_write(RegionIndex::BAR0, DMA_DOORBELL, &100u32.to_ne_bytes())
        .unwrap();
    let bytes = memory.0.lock().unwrap();
    assert_eq!(bytes[0x1000..0x1064], bytes[..100]);
    assert_eq!(bytes[0x1064], 0);
    drop(bytes);
    assert_eq!(client.counters().of(CommandCode::DMA_READ), 1);
    client.dma_unmap(range).unwrap();
    let refused = client.region_write(RegionIndex::BAR0, DMA_DOORBELL, &4u32.to_ne_bytes());
    assert_eq!(
        refused,
        Err(ClientError::Refused {
            command: CommandCode::REGION_WRITE,
            errno: Errno::FAULT
        })
    );
}

#[test]
fn t15_pair_dma_messages_on_the_same_socket_come_before_the_reply() {
    message_dma(false);
}

#[test]
fn pair_dma_messages_on_the_twin_socket() {
    message_dma(true);
}

#[test]
fn pair_threads_have_requests_in_flight_at_once() {
    let (client, _server) = standard();
    let client = Arc::new(client);
    let threads: Vec<_> = (0u8..8)
        .map(|thread| {
            let client = client.clone();
            std::thread::spawn(move || {
                let offset = u64::from(thread) * 64;
                for round in 0u8..200 {
                    let wanted = [thread, round, !thread, !round, 0, 1, 2, 3];
                    client
                        .region_write(RegionIndex::BAR0, offset, &wanted)
                        .unwrap();
                    let mut data = [0; 8];
                    client
                        .region_read(RegionIndex::BAR0, offset, &mut data)
                        .unwrap();
                    assert_eq!(data, wanted);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(client.counters().of(CommandCode::REGION_READ), 1600);
}

#[test]
fn pair_transfers_larger_than_a_message_are_split() {
    let (client, _server) = standard();
    let mut data = vec![0xff; BAR_BYTES as usize];
    client.region_read(RegionIndex::BAR0, 0, &mut data).unwrap();
    assert_eq!(data, vec![0; BAR_BYTES as usize]);
    let mut large = vec![0; (1 << 20) + 1];
    let refused = client.region_read(RegionIndex::BAR0, 0, &mut large);
    assert!(matches!(refused, Err(ClientError::Refused { .. })));
    client.region_read(RegionIndex::BAR0, 0, &mut data).unwrap();
}

#[test]
fn pair_shutdown_fails_every_call_at_once() {
    let (client, server) = standard();
    client.shutdown();
    let error = client.reset().unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
    assert!(client.lost().is_some());
    assert!(server.join().unwrap().closed.is_some());
}
