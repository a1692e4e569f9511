//! The checks that need no driver: what the server says of the device, and what it lets a client write.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use protocol::{Client, ClientError, Errno, IrqAction, IrqIndex, RegionIndex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

use crate::ram::Ram;

const COMMAND: u64 = 0x04;
const BAR0: u64 = 0x10;
const INTERRUPT_LINE: u64 = 0x3c;
const POWER_ID: u8 = 0x01;
const MSIX_ID: u8 = 0x11;

/// Prints everything that the server says of the device.
pub(crate) fn info(client: &Client) -> Result<()> {
    let info = client.device_info()?;
    println!(
        "device: reset {}, {} regions, {} interrupt indexes",
        info.reset, info.num_regions, info.num_irqs
    );
    for index in 0..info.num_regions {
        let region = client.region_info(RegionIndex(index))?;
        println!(
            "region {index}: size {:#x}, {:?}, areas {:x?}",
            region.size, region.flags, region.areas
        );
    }
    for index in 0..info.num_irqs {
        let irq = client.irq_info(IrqIndex(index))?;
        println!("irq {index}: {} vectors, {:?}", irq.count, irq.flags);
    }
    println!(
        "config: vendor {:04x}, device {:04x}",
        word(client, 0)?,
        word(client, 2)?
    );
    Ok(())
}

/// A device that nobody has used since it was opened: as the last client must have left it.
pub(crate) fn fresh(client: &Client) -> Result<()> {
    let command = word(client, COMMAND)?;
    ensure!(
        command & 0x0004 == 0,
        "bus mastering is on: command {command:#06x}"
    );
    let mut line = [0];
    client.region_read(RegionIndex::CONFIG, INTERRUPT_LINE, &mut line)?;
    // `filter` leaves these two behind.
    ensure!(
        line != [0x5a],
        "the interrupt line is that of the last client"
    );
    ensure!(
        word(client, BAR0 + 2)? != 0xabcd,
        "BAR0 is that of the last client"
    );
    println!(
        "fresh: command {command:#06x}, interrupt line {:#x}",
        line[0]
    );
    Ok(())
}

/// Writes what a client may write, and what it may not.
pub(crate) fn filter(client: &Client) -> Result<()> {
    let write = |offset: u64, data: &[u8]| client.region_write(RegionIndex::CONFIG, offset, data);
    let before = word(client, COMMAND)?;
    write(COMMAND, &0x0547u16.to_le_bytes())?; // I/O, memory, bus master, parity, SERR, INTx disable
    let after = word(client, COMMAND)?;
    ensure!(
        after & 0x0140 == before & 0x0140,
        "parity or SERR changed: {before:#06x} to {after:#06x}"
    );
    ensure!(
        after & 0x0406 == 0x0406,
        "memory, bus master or INTx disable did not pass: {after:#06x}"
    );
    println!("command: {before:#06x} to {after:#06x}");

    // BAR sizing works, as a VMM does it that has no other way.
    write(BAR0, &[0xff; 4])?;
    let sized = dword(client, BAR0)?;
    let size = client.region_info(RegionIndex::BAR0)?.size;
    ensure!(
        u64::from(!(sized & !0xf)) + 1 == size,
        "BAR0 sizes to {sized:#x}, the region has {size:#x}"
    );
    write(BAR0, &0xabcd_0000u32.to_le_bytes())?;
    write(INTERRUPT_LINE, &[0x5a])?;
    println!("bar0: sized to {size:#x} through config space");

    let msix = capability(client, MSIX_ID)?;
    write(msix + 2, &0xc000u16.to_le_bytes())?; // enable, function mask
    ensure!(
        word(client, msix + 2)? & 0xc000 == 0,
        "a client could enable MSI-X past SET_IRQS"
    );
    let mut header = [0; 4];
    client.region_read(RegionIndex::CONFIG, msix, &mut header)?;
    header[3] = 0xc0;
    write(msix, &header)?;
    ensure!(
        word(client, msix + 2)? & 0xc000 == 0,
        "a client could enable MSI-X with a write that starts before it"
    );
    println!("msix: enable does not pass");
    Ok(())
}

/// Leaves the device asleep (D3hot), for the next client to find awake.
pub(crate) fn sleep(client: &Client) -> Result<()> {
    let control = capability(client, POWER_ID)? + 4;
    client.region_write(RegionIndex::CONFIG, control, &3u16.to_le_bytes())?;
    ensure!(
        word(client, control)? & 3 == 3,
        "the device does not go to D3hot"
    );
    println!("sleep: the device is in D3hot");
    Ok(())
}

/// Binds all MSI-X vectors in small messages; each must reach its own eventfd.
pub(crate) fn chunks(client: &Client) -> Result<()> {
    let irq = client.irq_info(IrqIndex::MSIX)?;
    let fds: Vec<OwnedFd> = (0..irq.count)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
        .collect::<Result<_, _>>()?;
    for (start, chunk) in (0..).step_by(3).zip(fds.chunks(3)) {
        let borrowed: Vec<_> = chunk.iter().map(AsFd::as_fd).collect();
        client
            .set_irqs_eventfds(IrqIndex::MSIX, start, IrqAction::Trigger, &borrowed)
            .with_context(|| format!("bind vectors from {start} on"))?;
    }
    for fd in &fds {
        drain(fd);
    }
    for vector in 0..irq.count {
        client.set_irqs_none(IrqIndex::MSIX, vector, 1, IrqAction::Trigger)?;
        for (number, fd) in (0..).zip(&fds) {
            ensure!(
                readable(fd)? == (number == vector),
                "vector {vector} fired: eventfd {number} is wrong"
            );
        }
        drain(&fds[vector as usize]);
    }
    client.disable_irqs(IrqIndex::MSIX)?;
    client
        .disable_irqs(IrqIndex::MSIX)
        .context("disable what is disabled")?;
    println!(
        "chunks: {} vectors bound 3 at a time, each fires its own eventfd ({:?})",
        irq.count, irq.flags
    );
    Ok(())
}

/// Two devices of one group: they share an address space.
pub(crate) fn shared_group(first: &Client, second: &Client) -> Result<()> {
    let (ours, other) = (
        Ram::new(0x1000_0000, 0x10_0000)?,
        Ram::new(0x1000_0000, 0x10_0000)?,
    );
    ours.map(first)?;
    ours.map(second)
        .context("the same memory for the second device")?;
    other.unmap(first)?;
    refused(other.map(first), Errno::EXIST)
        .context("other memory where the second device has some")?;
    ours.unmap(second)?;
    other
        .map(first)
        .context("other memory once nobody has the range")?;
    refused(ours.map(second), Errno::EXIST)
        .context("other memory where the first device has some")?;
    println!("shared: same memory is counted, other memory is EEXIST");
    Ok(())
}

fn refused(result: Result<()>, wanted: Errno) -> Result<()> {
    let Err(error) = result else {
        bail!("it was accepted")
    };
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused { errno, .. }) if *errno == wanted => Ok(()),
        _ => Err(error),
    }
}

fn capability(client: &Client, id: u8) -> Result<u64> {
    let mut at = word(client, 0x34)? & 0xff;
    for _ in 0..48 {
        let header = word(client, u64::from(at))?;
        if header.to_le_bytes()[0] == id {
            return Ok(u64::from(at));
        }
        at = header >> 8;
        ensure!(at != 0, "no capability {id:#x}");
    }
    bail!("the capability chain does not end")
}

fn readable(fd: &OwnedFd) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    Ok(rustix::event::poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )? > 0)
}

/// Empties an eventfd; one that is empty already says EAGAIN, which is as good.
fn drain(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

fn word(client: &Client, offset: u64) -> Result<u16> {
    let mut bytes = [0; 2];
    client.region_read(RegionIndex::CONFIG, offset, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn dword(client: &Client, offset: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    client.region_read(RegionIndex::CONFIG, offset, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
