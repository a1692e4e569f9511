//! Our client, and the crate's Server.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use harness::scratch::Scratch;
use protocol::{
    Client, ClientError, DmaMapFlags, Errno, Iova, IovaRange, IrqAction, IrqIndex, LostCause,
    RegionFlags, RegionIndex, SparseArea,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::peer::CrateServer;

const REGISTERS: RegionIndex = RegionIndex::BAR2;
/// A write of N fires vector N; see tests/crate_peer/server.rs.
const RAISE: u64 = 0x10;
/// Every access fails.
const REFUSES: u64 = 0x20;

fn triggers(count: usize) -> Result<Vec<OwnedFd>> {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    Ok((0..count)
        .map(|_| eventfd(0, flags))
        .collect::<Result<_, _>>()?)
}

fn count(trigger: &OwnedFd) -> u64 {
    let mut value = [0; 8];
    match rustix::io::read(trigger, &mut value) {
        Ok(8) => u64::from_ne_bytes(value),
        _ => 0,
    }
}

fn read(client: &Client, offset: u64) -> Result<[u8; 4], ClientError> {
    let mut data = [0xaa; 4];
    client.region_read(REGISTERS, offset, &mut data)?;
    Ok(data)
}

#[test]
fn crate_server_describes_its_device() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    // What the crate's Server says to everybody.
    assert_eq!(client.server_capabilities().max_msg_fds, 1);
    assert_eq!(client.server_capabilities().max_data_xfer_size, 1 << 20);
    let info = client.device_info()?;
    assert!(info.reset && info.pci);
    assert_eq!((info.num_regions, info.num_irqs), (9, 5));
    // The file comes with the second of two answers (pitfall 11).
    let bar0 = client.region_info(RegionIndex::BAR0)?;
    let all = SparseArea {
        offset: 0,
        size: 0x10000,
    };
    assert_eq!((bar0.size, &bar0.areas[..]), (0x10000, &[all][..]));
    let file = bar0.fd.expect("a file to map");
    assert_eq!(rustix::fs::fstat(&file)?.st_size, 0x10000);
    let registers = client.region_info(REGISTERS)?;
    assert_eq!(registers.flags, RegionFlags::READ | RegionFlags::WRITE);
    assert!(registers.fd.is_none() && registers.areas.is_empty());
    assert_eq!(client.irq_info(IrqIndex::MSIX)?.count, 4);
    assert_eq!(client.irq_info(IrqIndex::MSI)?.count, 0);
    drop(client);
    server.ends()
}

#[test]
fn crate_server_reads_and_writes() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    client.region_write(REGISTERS, 8, &[1, 2, 3, 4])?;
    assert_eq!(read(&client, 8)?, [1, 2, 3, 4]);
    // Its answer comes in two writes (C2 row 22). A long one, too.
    let long: Vec<u8> = (0..0x1000).map(|at: usize| at.to_le_bytes()[0]).collect();
    client.region_write(RegionIndex::BAR0, 0x800, &long)?;
    let mut back = vec![0; long.len()];
    client.region_read(RegionIndex::BAR0, 0x800, &mut back)?;
    assert_eq!(back, long);
    // A posted write is done before the next request.
    client.region_write_posted(REGISTERS, 8, &[9, 9, 9, 9])?;
    assert_eq!(read(&client, 8)?, [9; 4]);
    drop(client);
    server.ends()
}

#[test]
fn crate_server_takes_maps_interrupts_and_reset() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, 0x4000)?;
    rustix::io::pwrite(&memory, b"HERE", 0x1000)?;
    let page = |index: u64| IovaRange::new(Iova(index << 12), 0x1000).expect("a range");
    let both = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client.dma_map(page(16), both, Some((memory.as_fd(), 0x1000)))?;
    client.dma_map(page(17), DmaMapFlags::READ, None)?;
    client.dma_unmap(page(16))?;
    // One eventfd per message: the server said max_msg_fds 1.
    let fds = triggers(3)?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.set_irqs_eventfds(IrqIndex::MSIX, 1, IrqAction::Trigger, &borrowed)?;
    client.region_write(REGISTERS, RAISE, &[2])?;
    assert_eq!(fds.iter().map(count).collect::<Vec<_>>(), [0, 1, 0]);
    client.disable_irqs(IrqIndex::MSIX)?;
    client.reset()?;
    assert_eq!(
        server.asked_until("reset")?,
        [
            "dma_map 3 0x1000 0x10000 0x1000 HERE",
            "dma_map 1 0x0 0x11000 0x1000 no file",
            "dma_unmap DmaUnmapFlags(0x0) 0x10000 0x1000",
            "set_irqs 2 36 1 1 1",
            "set_irqs 2 36 2 1 1",
            "set_irqs 2 36 3 1 1",
            "set_irqs 2 33 0 0 0",
            "reset",
        ]
    );
    drop(client);
    server.ends()
}

/// C2 row 14, pitfall 3: its constants are wrong, unmap-all reaches the device as a question for dirty pages.
#[test]
fn crate_server_takes_unmap_all_for_something_else() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    client.dma_unmap_all()?;
    assert_eq!(
        server.asked_until("dma_unmap")?,
        ["dma_unmap DmaUnmapFlags(GET_DIRTY_PAGE_INFO) 0x0 0x0"]
    );
    Ok(())
}

/// C2 row 13: what the device says is lost, the errno is 0; for us that is EIO. The connection lives.
#[test]
fn crate_server_loses_the_errno() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    let refused = read(&client, REFUSES);
    assert!(
        matches!(
            refused,
            Err(ClientError::Refused {
                errno: Errno::IO,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(read(&client, 0)?, [0; 4]);
    assert!(client.lost().is_none());
    Ok(())
}

/// C2 row 12, pitfall 21: a posted write that fails is answered. An answer to nothing cannot be lived with: the device
/// is lost, at once and with a clear cause.
#[test]
fn crate_server_answers_a_posted_write_and_is_dropped() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    client.region_write_posted(REGISTERS, REFUSES, &[0])?;
    let next = read(&client, 0);
    assert!(
        matches!(next, Err(ClientError::Lost(LostCause::Protocol { .. }))),
        "{next:?}"
    );
    Ok(())
}

/// C2 rows 3 and 18: BOOL is refused, and its bytes are taken for the next header. The device is lost, and says so.
#[test]
fn crate_server_loses_step_at_bools_and_is_dropped() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    let refused = client.set_irqs_bool(IrqIndex::MSIX, 0, IrqAction::Trigger, &[true; 3]);
    assert!(
        matches!(
            refused,
            Err(ClientError::Refused {
                errno: Errno::IO,
                ..
            })
        ),
        "{refused:?}"
    );
    let next = read(&client, 0);
    assert!(matches!(next, Err(ClientError::Lost(_))), "{next:?}");
    Ok(())
}

/// C2 row 3: a command that it does not know is refused, and its body taken for the next header.
#[test]
fn crate_server_loses_step_at_io_fds_and_is_dropped() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = CrateServer::start(&scratch.file("s"))?;
    let client = server.client()?;
    let refused = client.region_io_fds(REGISTERS, 0x1000);
    assert!(
        matches!(refused, Err(ClientError::Refused { .. })),
        "{refused:?}"
    );
    let next = read(&client, 0);
    assert!(matches!(next, Err(ClientError::Lost(_))), "{next:?}");
    Ok(())
}
