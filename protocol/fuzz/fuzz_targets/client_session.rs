//! A client against a server that has written all its answers beforehand: every call ends with a value that makes
//! sense or with an error, a lost device stays lost, and every descriptor is closed.
#![no_main]

mod stream;

use libfuzzer_sys::fuzz_target;
use protocol::messages::Feature;
use protocol::{
    Client, ClientConfig, ClientError, DmaHandler, DmaMapFlags, Errno, Iova, IovaRange, IrqAction,
    IrqIndex, RegionIndex,
};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use stream::{message, send, steps};

const VERSION: &[u8] = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":1,\"write_multiple\":true}}\0";

struct Zeroes;

impl DmaHandler for Zeroes {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        assert!(address.0 + data.len() as u64 <= 0x2000);
        data.fill(0);
        Ok(())
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        assert!(address.0 + data.len() as u64 <= 0x1000);
        Ok(())
    }
}

/// The commands in the order in which `drive` sends them.
const ASKED: [u16; 12] = [2, 2, 4, 5, 7, 8, 8, 9, 10, 15, 3, 13];

fuzz_target!(|data: &[u8]| {
    let before = stream::open_descriptors();
    let (ours, server) = UnixStream::pair().expect("a socket pair");
    let mut asked = ASKED.iter().cycle();
    let mut id = 1;
    let version_is_given = data.first().is_some_and(|first| first & 0x80 != 0);
    if !version_is_given {
        send(&server, &message(0, 1, 1, 0, VERSION), 0);
    }
    for step in steps(data) {
        let fds = usize::from(step.what >> 3 & 0x0f) % 3;
        let other = u16::from(step.command);
        let bytes = match step.what & 7 {
            0 => step.bytes.to_vec(),
            1 => message(other, 11 + (other & 1), 0, 0, step.bytes),
            2 => message(id, other, 1, 0, step.bytes),
            3 => message(0, 1, 1, 0, step.bytes),
            4 => {
                id += 1;
                message(
                    id - 1,
                    *asked.next().expect("cycles"),
                    0x21,
                    u32::from(other),
                    step.bytes,
                )
            }
            _ => {
                id += 1;
                message(id - 1, *asked.next().expect("cycles"), 1, 0, step.bytes)
            }
        };
        send(&server, &bytes, fds);
    }
    server.shutdown(Shutdown::Write).expect("shutdown");
    let config = ClientConfig {
        dma_handler: Some(Arc::new(Zeroes)),
        access_deadline: Duration::from_secs(1),
        reset_deadline: Duration::from_secs(1),
        ..ClientConfig::standard()
    };
    if let Ok(client) = Client::connect(ours.into(), config) {
        let lost = drive(&client).is_err() && client.lost().is_some();
        if lost {
            assert!(matches!(client.reset(), Err(ClientError::Lost(_))));
        }
    }
    drop(server);
    assert_eq!(stream::open_descriptors(), before);
});

/// Asks everything once; an error that leaves the connection alive does not end it.
fn drive(client: &Client) -> Result<(), ClientError> {
    let alive = |error: ClientError| match error {
        ClientError::Lost(_) => Err(error),
        _ => Ok(()),
    };
    let page = |start| IovaRange::new(Iova(start), 0x1000).expect("a page");
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd");
    client
        .dma_map(page(0), DmaMapFlags::READ_WRITE, None)
        .or_else(alive)?;
    client
        .dma_map(page(0x1000), DmaMapFlags::READ, None)
        .or_else(alive)?;
    client.device_info().map(drop).or_else(alive)?;
    client
        .region_info(RegionIndex::BAR0)
        .map(|info| {
            assert!(
                info.areas
                    .iter()
                    .all(|area| area.offset + area.size <= info.size)
            )
        })
        .or_else(alive)?;
    client.irq_info(IrqIndex::MSIX).map(drop).or_else(alive)?;
    client
        .set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &[event.as_fd(); 2])
        .or_else(alive)?;
    let mut data = [0; 4];
    client
        .region_read(RegionIndex::BAR0, 0, &mut data)
        .or_else(alive)?;
    client
        .region_write(RegionIndex::BAR0, 0, &data)
        .or_else(alive)?;
    client.region_write_multi(&[]).map(drop).or_else(alive)?;
    client
        .region_io_fds(RegionIndex::BAR0, 0x1000)
        .map(drop)
        .or_else(alive)?;
    client.dma_unmap(page(0)).or_else(alive)?;
    client.reset().or_else(alive)?;
    client
        .device_feature(&Feature::GetState, 8)
        .map(drop)
        .or_else(alive)?;
    client.mig_data_read(64).map(drop).or_else(alive)?;
    client.service()
}
