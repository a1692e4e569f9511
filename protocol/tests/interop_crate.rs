//! Our server's side with the `vfio_user` crate's Client, and our client with its Server: an engine that we did not
//! write. Nothing here is hostile; what that crate cannot do is not asked of it.

#![cfg(test)]

mod peers;

use peers::device::{BAR_BYTES, memfd, serve};
use protocol::server::ServerConfig;
use protocol::{
    Client, ClientConfig, ClientError, DmaMapFlags, Iova, IovaRange, IrqAction, IrqIndex,
    RegionIndex,
};
use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use vfio_bindings::bindings::vfio::vfio_region_info;
use vfio_user::{DmaUnmapFlags, ServerBackend, ServerRegion};

/// A path for a socket that no other test uses.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}.sock", std::process::id()));
    let _absent = std::fs::remove_file(&path);
    path
}

#[test]
fn client_of_the_crate_drives_our_server() {
    let path = socket_path("crate-client");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(stream.into(), ServerConfig::standard())
            .join()
            .unwrap()
    });
    let mut client = vfio_user::Client::new(&path).unwrap();
    std::fs::remove_file(&path).unwrap();

    let bar = client.region(0).unwrap();
    assert_eq!(bar.size, BAR_BYTES);
    assert_eq!(bar.sparse_areas.len(), 1);
    assert!(bar.file_offset.is_some());
    client.region_write(0, 8, &[1, 2, 3, 4]).unwrap();
    let mut data = [0; 4];
    client.region_read(0, 8, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    assert_eq!(client.get_irq_info(2).unwrap().count, 40);
    let events: Vec<_> = (0..16)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
        .collect();
    let raw: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    client.set_irqs(2, 4 | 32, 0, 16, &raw).unwrap();
    let memory = memfd(0x2000);
    client
        .dma_map(0, 0x1000, 0x2000, memory.as_raw_fd())
        .unwrap();
    client.dma_unmap(0x1000, 0x2000).unwrap();
    client.reset().unwrap();
    client.shutdown().unwrap();
    let log = server.join().unwrap();
    assert!(log.refusals.is_empty(), "{:?}", log.refusals);
    assert_eq!((log.maps, log.resets), (1, 1));
    assert_eq!(log.set_irqs, [(2, 0, 16, 16)]);
}

/// What the crate's Server calls.
#[derive(Default)]
struct Backend {
    bytes: [u8; 16],
    calls: Vec<String>,
}

impl ServerBackend for Backend {
    fn region_read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.bytes[at..at + data.len()]);
        Ok(())
    }

    fn region_write(&mut self, _region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let with = fd.is_some();
        let call = format!(
            "map {} {offset:#x} {address:#x} {size:#x} {with}",
            flags.bits()
        );
        self.calls.push(call);
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.calls.push(format!("unmap {address:#x} {size:#x}"));
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.calls.push("reset".to_owned());
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let fds = fds.len();
        self.calls
            .push(format!("irqs {index} {flags} {start} {count} {fds}"));
        Ok(())
    }
}

/// The nine regions of PCI: config space, and nothing else.
fn regions() -> Vec<ServerRegion> {
    let region = |index| ServerRegion {
        region_info: vfio_region_info {
            argsz: 32,
            flags: 3,
            index,
            cap_offset: 0,
            size: if index == 7 { 256 } else { 0 },
            offset: 0,
        },
        sparse_areas: Vec::new(),
        mmap_fd: None,
    };
    (0..9).map(region).collect()
}

#[test]
fn our_client_drives_the_server_of_the_crate() {
    let path = socket_path("crate-server");
    let irqs = (0..5)
        .map(|index| vfio_user::IrqInfo {
            index,
            flags: 1,
            count: 1,
        })
        .collect();
    let server = vfio_user::Server::new(&path, true, irqs, regions()).unwrap();
    let serving = std::thread::spawn(move || {
        let mut backend = Backend::default();
        // The crate calls a client that leaves an error.
        let _left = server.run(&mut backend);
        backend.calls
    });
    let stream = UnixStream::connect(&path).unwrap();
    let client = Client::connect(stream.into(), ClientConfig::standard()).unwrap();
    assert_eq!(client.server_capabilities().max_msg_fds, 1);
    assert!(client.device_info().unwrap().reset);
    let config = client.region_info(RegionIndex::CONFIG).unwrap();
    assert_eq!(config.size, 256);
    client
        .region_write(RegionIndex::CONFIG, 4, &[1, 2, 3, 4])
        .unwrap();
    let mut data = [0; 4];
    client
        .region_read(RegionIndex::CONFIG, 4, &mut data)
        .unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    assert_eq!(client.irq_info(IrqIndex::INTX).unwrap().count, 1);
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    client
        .set_irqs_eventfds(IrqIndex::INTX, 0, IrqAction::Trigger, &[event.as_fd(); 2])
        .unwrap();
    let memory = memfd(0x2000);
    let range = IovaRange::new(Iova(0x1000), 0x2000).unwrap();
    client
        .dma_map(range, DmaMapFlags::READ_WRITE, Some((memory.as_fd(), 0)))
        .unwrap();
    client.dma_unmap(range).unwrap();
    assert!(matches!(client.reset(), Err(ClientError::Refused { .. })));
    drop(client);
    assert_eq!(
        serving.join().unwrap(),
        [
            "irqs 0 36 0 1 1",
            "irqs 0 36 1 1 1",
            "map 3 0x0 0x1000 0x2000 true",
            "unmap 0x1000 0x2000",
            "reset"
        ]
    );
}
