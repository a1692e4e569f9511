//! What a VMM asks of its device from the start to a guest that works: the code for it has to be in memory once.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use protocol::messages::dma::DmaMapFlags;
use protocol::messages::irq::IrqAction;
use protocol::{Client, Iova, IovaRange, IrqIndex, RegionIndex};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// docs/test-device.md.
const REGISTERS: RegionIndex = RegionIndex::BAR2;
const SCRATCH: u64 = 8;
const IRQ_RAISE: u64 = 0x10;
const DMA_SOURCE: u64 = 0x20;
const DMA_COMMAND: u64 = 0x34;
const DMA_STATUS: u64 = 0x38;
const SUM: u32 = 3;
const VECTORS: usize = 16;
const MEMORY_BYTES: u64 = 0x1_0000;

/// Asks what the device is, shares memory, binds interrupts, resets it, and lets it read memory and interrupt.
pub(crate) fn attach_and_use(client: &Client) -> Result<()> {
    let device = client.device_info()?;
    for index in 0..device.num_regions {
        client.region_info(RegionIndex(index))?;
    }
    for index in 0..device.num_irqs {
        client.irq_info(IrqIndex(index))?;
    }
    let mut config = [0; 256];
    client.region_read(RegionIndex::CONFIG, 0, &mut config)?;
    let registers = client.region_info(REGISTERS)?;
    client.region_io_fds(REGISTERS, registers.size)?;
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, MEMORY_BYTES)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK)?;
    let range = IovaRange::new(Iova(0), MEMORY_BYTES).context("a range")?;
    let both = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client.dma_map(range, both, Some((memory.as_fd(), 0)))?;
    client.reset()?;
    let triggers = (0..VECTORS).map(|_| eventfd(0, EventfdFlags::CLOEXEC));
    let triggers = triggers.collect::<Result<Vec<_>, _>>()?;
    let borrowed: Vec<_> = triggers.iter().map(AsFd::as_fd).collect();
    client.set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &borrowed)?;
    // Memory decoding and bus mastering.
    client.region_write(RegionIndex::CONFIG, 4, &[6, 0])?;
    client.region_write(REGISTERS, IRQ_RAISE, &(2_u32 << 16).to_le_bytes())?;
    rustix::io::read(triggers.first().context("a vector")?, &mut [0; 8])?;
    client.region_write(REGISTERS, DMA_SOURCE, &[0; 8])?;
    client.region_write(REGISTERS, DMA_SOURCE + 0x10, &[0, 0x10, 0, 0])?;
    client.region_write(REGISTERS, DMA_COMMAND, &SUM.to_le_bytes())?;
    let mut status = [0; 4];
    client.region_read(REGISTERS, DMA_STATUS, &mut status)?;
    ensure!(status == [1, 0, 0, 0], "the job ended as {status:?}");
    client.region_write_posted(REGISTERS, SCRATCH, &[1; 4])?;
    client.dma_unmap(range)?;
    client.disable_irqs(IrqIndex::MSIX)?;
    Ok(())
}
