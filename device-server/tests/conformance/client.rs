//! Our own client against our own server: the whole life of a device, in the order of a VMM.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use protocol::client::{Client, ClientConfig, ClientError, DmaHandler};
use protocol::{
    DmaMapFlags, Errno, Iova, IovaRange, IrqAction, IrqIndex, RegionFlags, RegionIndex,
};
use rustix::process::Signal;

use crate::support::{Server, descriptors};

const REGISTERS: RegionIndex = RegionIndex::BAR2;

fn connect(server: &Server, config: ClientConfig) -> Client {
    let socket = UnixStream::connect(server.path()).expect("connect");
    Client::connect(socket.into(), config).expect("negotiate")
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).expect("range")
}

fn read_u32(client: &Client, offset: u64) -> u32 {
    let mut data = [0; 4];
    client
        .region_read(REGISTERS, offset, &mut data)
        .expect("read");
    u32::from_le_bytes(data)
}

/// Runs the device's copy engine; gives its status register.
fn copy(client: &Client, source: u64, destination: u64, len: u32) -> u32 {
    client
        .region_write(RegionIndex::CONFIG, 4, &[4, 0])
        .expect("bus master");
    client
        .region_write(REGISTERS, 0x20, &source.to_le_bytes())
        .expect("source");
    client
        .region_write(REGISTERS, 0x28, &destination.to_le_bytes())
        .expect("destination");
    client
        .region_write(REGISTERS, 0x30, &len.to_le_bytes())
        .expect("length");
    client
        .region_write(REGISTERS, 0x34, &1u32.to_le_bytes())
        .expect("command");
    read_u32(client, 0x38)
}

#[test]
fn device_is_described_and_its_memory_shared() {
    let server = Server::start();
    let client = connect(&server, ClientConfig::standard());
    let info = client.device_info().expect("info");
    assert!(info.reset && info.pci && info.num_regions == 9 && info.num_irqs == 5);
    let region = client.region_info(RegionIndex::BAR0).expect("BAR0");
    assert!(region.flags.contains(RegionFlags::MMAP));
    assert_eq!((region.size, region.areas.len()), (2 << 20, 1));
    let memory = region.fd.expect("a descriptor");
    rustix::io::pwrite(&memory, b"by mapping", 0x100).expect("write");
    let mut data = [0; 10];
    client
        .region_read(RegionIndex::BAR0, 0x100, &mut data)
        .expect("read");
    assert_eq!(&data, b"by mapping");
    assert_eq!(client.irq_info(IrqIndex::MSIX).expect("irq").count, 16);
    assert_eq!(read_u32(&client, 0), u32::from_le_bytes(*b"BLKT"));
}

#[test]
fn memory_is_mapped_copied_and_unmapped() {
    let server = Server::start();
    let client = connect(&server, ClientConfig::standard());
    let memory = descriptors::memory(0x4000);
    let flags = DmaMapFlags::READ_WRITE;
    client
        .dma_map(range(0x10_0000, 0x4000), flags, Some((memory.as_fd(), 0)))
        .expect("map");
    rustix::io::pwrite(&memory, b"bulkhead", 0).expect("fill");
    assert_eq!(copy(&client, 0x10_0000, 0x10_2000, 8), 1);
    let mut copied = [0; 8];
    rustix::io::pread(&memory, &mut copied, 0x2000).expect("look");
    assert_eq!(&copied, b"bulkhead");
    let again = client
        .dma_map(range(0x10_0000, 0x1000), flags, None)
        .expect_err("overlap");
    assert!(
        matches!(
            again,
            ClientError::Refused {
                errno: Errno::EXIST,
                ..
            }
        ),
        "{again}"
    );
    client.dma_unmap(range(0x10_0000, 0x4000)).expect("unmap");
    assert_eq!(copy(&client, 0x10_0000, 0x10_2000, 8) & 0xffff, 2);
}

#[test]
fn interrupts_are_bound_in_chunks_and_fire() {
    let server = Server::start();
    let client = connect(&server, ClientConfig::standard());
    let events: Vec<_> = (0..16).map(|_| descriptors::eventfd()).collect();
    let borrowed: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client
        .set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &borrowed)
        .expect("bind");
    client
        .region_write(REGISTERS, 0x10, &0x0002_000fu32.to_le_bytes())
        .expect("raise");
    assert_eq!(descriptors::fired(&events[15]), 1);
    client.disable_irqs(IrqIndex::MSIX).expect("disable");
    client
        .region_write(REGISTERS, 0x10, &0x0002_000fu32.to_le_bytes())
        .expect("raise");
    assert_eq!(descriptors::fired(&events[15]), 0);
    client.reset().expect("reset");
}

#[test]
fn threads_share_a_client() {
    let server = Server::start();
    let client = connect(&server, ClientConfig::standard());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let client = &client;
            scope.spawn(move || {
                for value in 0..500u32 {
                    let at = 0x1000 * thread;
                    client
                        .region_write(RegionIndex::BAR0, at, &value.to_le_bytes())
                        .expect("write");
                    let mut data = [0; 4];
                    client
                        .region_read(RegionIndex::BAR0, at, &mut data)
                        .expect("read");
                    assert_eq!(u32::from_le_bytes(data), value);
                }
            });
        }
    });
}

/// Client memory at 0x1000 that the server reaches by messages.
struct Memory(Mutex<Vec<u8>>);

impl DmaHandler for Memory {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        let start = (address.0 - 0x1000) as usize;
        let memory = self.0.lock().expect("lock");
        data.copy_from_slice(&memory[start..start + data.len()]);
        Ok(())
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        let start = (address.0 - 0x1000) as usize;
        self.0.lock().expect("lock")[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn message_dma_goes_through_the_clients_handler() {
    let server = Server::start_with(&["--message-dma"]);
    let memory = Arc::new(Memory(Mutex::new((0..4096u32).map(|n| n as u8).collect())));
    let config = ClientConfig {
        dma_handler: Some(Arc::clone(&memory) as Arc<dyn DmaHandler>),
        ..ClientConfig::standard()
    };
    let client = connect(&server, config);
    let backing = descriptors::memory(0x1000);
    let flags = DmaMapFlags::READ_WRITE;
    client
        .dma_map(range(0x1000, 0x1000), flags, Some((backing.as_fd(), 0)))
        .expect("map");
    // The write that starts the job is answered when the job is done: somebody must serve the DMA messages meanwhile.
    let status = std::thread::scope(|scope| {
        let job = scope.spawn(|| copy(&client, 0x1000, 0x1800, 256));
        while !job.is_finished() {
            let mut poll = [rustix::event::PollFd::from_borrowed_fd(
                client.poll_fd(),
                rustix::event::PollFlags::IN,
            )];
            let tick = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            rustix::event::poll(&mut poll, Some(&tick)).expect("poll");
            client.service().expect("service");
        }
        job.join().expect("the job")
    });
    assert_eq!(status, 1);
    let bytes = memory.0.lock().expect("lock");
    assert_eq!(bytes[0x800..0x900], bytes[..0x100]);
}

#[test]
fn server_that_is_killed_costs_the_device_and_nothing_else() {
    let server = Server::start();
    let client = connect(&server, ClientConfig::standard());
    client.device_info().expect("info");
    server.signal(Signal::KILL);
    let error = client
        .region_read(REGISTERS, 0, &mut [0; 4])
        .expect_err("the server is gone");
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
    assert!(client.lost().is_some());
}
