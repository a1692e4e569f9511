//! A server that ends after every byte of every message that it sends, requests of its own included. The client asks for
//! everything that there is; whatever was cut, it loses the device at once and keeps no descriptor.

#![cfg(test)]

mod peers;

use harness::raw_message::RawMessage;
use peers::device::{DMA_DOORBELL, DMA_SOURCE, memfd, serve};
use peers::zeroes::Zeroes;
use protocol::messages::Feature;
use protocol::messages::write_multi::WriteMultiEntry;
use protocol::server::ServerConfig;
use protocol::{
    Client, ClientConfig, ClientError, DmaMapFlags, Iova, IovaRange, IrqAction, IrqIndex,
    RegionIndex,
};
use rustix::event::{EventfdFlags, eventfd};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Far below every deadline.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One of each: every command that a client sends and every answer that carries a descriptor.
fn asks_for_everything(socket: OwnedFd) -> Result<(), ClientError> {
    let config = ClientConfig {
        dma_handler: Some(Arc::new(Zeroes)),
        ..ClientConfig::standard()
    };
    let client = Client::connect(socket, config)?;
    let asked = asks(&client);
    if asked.is_err() {
        let started = Instant::now();
        assert!(client.lost().is_some());
        let again = client.device_info();
        assert!(matches!(again, Err(ClientError::Lost(_))), "{again:?}");
        assert!(started.elapsed() < AT_ONCE);
    }
    asked
}

fn asks(client: &Client) -> Result<(), ClientError> {
    client.device_info()?;
    client.region_info(RegionIndex::BAR0)?;
    client.irq_info(IrqIndex::MSIX)?;
    refused(client.region_io_fds(RegionIndex::BAR0, 4096).map(drop))?;
    refused(client.device_feature(&Feature::GetMigration, 8).map(drop))?;
    let file = memfd(0x10000);
    let range = IovaRange::new(Iova(DMA_SOURCE), 0x10000).unwrap();
    client.dma_map(range, DmaMapFlags::READ_WRITE, Some((file.as_fd(), 0)))?;
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let action = IrqAction::Trigger;
    client.set_irqs_eventfds(IrqIndex::MSIX, 0, action, &[event.as_fd()])?;
    client.region_read(RegionIndex::BAR0, 0, &mut [0; 8])?;
    let entry = WriteMultiEntry {
        region: RegionIndex::BAR0,
        offset: 8,
        data: &[1],
    };
    client.region_write_multi(&[entry])?;
    // The device asks for memory before it answers.
    client.region_write(RegionIndex::BAR0, DMA_DOORBELL, &4u32.to_ne_bytes())?;
    client.disable_irqs(IrqIndex::MSIX)?;
    client.dma_unmap(range)?;
    client.reset()
}

/// What this device has not got.
fn refused(answer: Result<(), ClientError>) -> Result<(), ClientError> {
    match answer {
        Err(ClientError::Refused { .. }) => Ok(()),
        other => other,
    }
}

/// Hands messages both ways until this many bytes of the server have gone through, then ends. Gives what was left.
fn session_of(bytes: usize) -> (Result<(), ClientError>, usize) {
    let (client, client_end) = UnixStream::pair().unwrap();
    let (server, server_end) = UnixStream::pair().unwrap();
    let device = serve(server_end.into(), ServerConfig::standard());
    let (from_client, to_server) = (client_end.try_clone().unwrap(), server.try_clone().unwrap());
    let requests = std::thread::spawn(move || {
        while let Ok(Some(message)) = RawMessage::try_receive(&from_client) {
            if message.send(&to_server).is_err() {
                break;
            }
        }
        let _closed_already = to_server.shutdown(Shutdown::Both);
    });
    let replies = std::thread::spawn(move || {
        let mut left = bytes;
        while let Ok(Some(mut message)) = RawMessage::try_receive(&server) {
            message.bytes.truncate(left);
            left -= message.bytes.len();
            if message.bytes.is_empty() || message.send(&client_end).is_err() || left == 0 {
                break;
            }
        }
        for end in [client_end, server] {
            let _closed_already = end.shutdown(Shutdown::Both);
        }
        left
    });
    let result = asks_for_everything(client.into());
    requests.join().unwrap();
    device.join().unwrap();
    (result, replies.join().unwrap())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

// The only test of this file: it counts the descriptors of the process.
#[test]
fn s03_s24_server_that_ends_after_every_byte_costs_the_device_and_nothing_else() {
    let plenty = 1 << 20;
    let (whole, left) = session_of(plenty);
    assert_eq!(whole, Ok(()));
    let sent = plenty - left;
    assert!(sent > 600, "{sent} bytes are not every command");
    let before = open_descriptors();
    for bytes in 0..sent {
        let started = Instant::now();
        let (cut, _) = session_of(bytes);
        assert!(
            matches!(cut, Err(ClientError::Lost(_))),
            "{bytes} of {sent}: {cut:?}"
        );
        assert!(started.elapsed() < AT_ONCE, "{bytes} of {sent}");
        assert_eq!(open_descriptors(), before, "{bytes} of {sent}");
    }
}
