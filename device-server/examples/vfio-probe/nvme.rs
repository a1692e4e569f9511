//! Just enough of an NVMe driver: the admin queue, and Identify Controller.
//!
//! NVM Express Base 1.4 §3.1 (registers), §4 (queue entries), §5.15 (Identify). Registers by the mapped BAR, data by DMA,
//! completion by interrupt: no message to the server for the transfer itself.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use device_server::dma::mapping::Mapping;
use protocol::{Client, DmaMapFlags, Iova, IovaRange, IrqAction, IrqIndex, RegionIndex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use vm_memory::Bytes;

use crate::ram::Ram;

const CC: usize = 0x14;
const CC_ENABLE: u32 = 0x0046_0001; // 64-byte submission and 16-byte completion entries, enable
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const SUBMISSION_DOORBELL: usize = 0x1000;
const COMPLETION_DOORBELL: usize = 0x1004;
const ENTRIES: u32 = 16;

const RAM_IOVA: u64 = 0x1_0000_0000;
const RAM_BYTES: u64 = 0x20_0000;
const COMPLETIONS: usize = 0x1000;
const DATA: usize = 0x2000;

/// How long the device may take for anything. Emulated, on a busy machine.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);

/// How the device says that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Vector 0 of MSI-X.
    Msix,
    /// The pin, unmasked again through a resample eventfd.
    Intx,
}

struct Controller<'a> {
    client: &'a Client,
    bar: Mapping,
    ram: Ram,
    interrupt: OwnedFd,
    resample: OwnedFd,
    kind: Interrupt,
    commands: u32,
}

/// Identify Controller twice, and all the way back.
pub(crate) fn identify(client: &Client, kind: Interrupt) -> Result<()> {
    let mut controller = Controller::start(client, kind)?;
    for _ in 0..2 {
        let data = controller.identify(RAM_IOVA + DATA as u64)?;
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&data[range]).trim().to_owned();
        ensure!(data != vec![0; 4096], "the device wrote nothing");
        println!(
            "identify: model \"{}\", serial \"{}\", by {kind:?}",
            text(24..64),
            text(4..24)
        );
    }
    client.reset().context("reset")?;
    ensure!(
        controller.register(CC)? & 1 == 0,
        "the controller is still enabled after a reset"
    );
    client.disable_irqs(controller.index())?;
    controller.ram.unmap(client)?;
    println!("reset: controller is off");
    Ok(())
}

/// A transfer to memory that is not mapped, or mapped for reading only, must not arrive, nor take the server down.
pub(crate) fn identify_out_of_bounds(client: &Client) -> Result<()> {
    let mut controller = Controller::start(client, Interrupt::Msix)?;
    let read_only = Ram::new(0x2_0000_0000, RAM_BYTES)?;
    read_only.map_for(client, DmaMapFlags::READ)?;
    for address in [0x7_0000_0000, 0x2_0000_0000] {
        // The controller may report an error or (QEMU's does) success: what counts is that no byte arrives.
        match controller.identify(address) {
            Ok(data) => ensure!(
                data == vec![0; 4096],
                "a transfer to {address:#x} arrived elsewhere"
            ),
            Err(error) => println!("bounds: {address:#x}: {error:#}"),
        }
    }
    ensure!(
        read_only.read(0, 4096)? == vec![0; 4096],
        "the device wrote to memory mapped for reading"
    );
    let interrupt_window = Ram::new(0xfee0_0000, 0x1000)?;
    let error = interrupt_window
        .map(client)
        .err()
        .context("the interrupt window could be mapped")?;
    println!("bounds: nothing arrived; {error:#}");
    client
        .region_read(RegionIndex::CONFIG, 0, &mut [0; 4])
        .context("the server after DMA faults")
}

/// Sets everything going, says so, and waits to be killed.
pub(crate) fn hold(client: &Client) -> Result<()> {
    let mut controller = Controller::start(client, Interrupt::Msix)?;
    controller.identify(RAM_IOVA + DATA as u64)?;
    println!("holding");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The registers and doorbells of BAR0, mapped as a VMM maps them.
pub(crate) fn map_registers(client: &Client) -> Result<Mapping> {
    let region = client.region_info(RegionIndex::BAR0)?;
    let area = region.areas.first().context("BAR0 has no area to map")?;
    ensure!(
        area.offset == 0 && area.size >= 0x2000,
        "registers and doorbells are not in the first area: {area:?}"
    );
    let fd = region
        .fd
        .as_ref()
        .context("BAR0 came without a file descriptor")?;
    let range = IovaRange::new(Iova(0), area.size)
        .ok()
        .context("empty area")?;
    Ok(Mapping::new(fd.as_fd(), region.offset, range, true)?)
}

impl<'a> Controller<'a> {
    fn start(client: &'a Client, kind: Interrupt) -> Result<Controller<'a>> {
        let bar = map_registers(client)?;
        let ram = Ram::new(RAM_IOVA, RAM_BYTES)?;
        ram.map(client)?;
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC)?;
        let resample = eventfd(0, EventfdFlags::CLOEXEC)?;
        let controller = Controller {
            client,
            bar,
            ram,
            interrupt,
            resample,
            kind,
            commands: 0,
        };
        controller.bind_interrupt()?;
        let command = 0x0006u16; // memory space, bus master
        client.region_write(RegionIndex::CONFIG, 4, &command.to_le_bytes())?;
        controller.enable()?;
        Ok(controller)
    }

    fn index(&self) -> IrqIndex {
        match self.kind {
            Interrupt::Msix => IrqIndex::MSIX,
            Interrupt::Intx => IrqIndex::INTX,
        }
    }

    fn bind_interrupt(&self) -> Result<()> {
        let fds = [self.interrupt.as_fd()];
        self.client
            .set_irqs_eventfds(self.index(), 0, IrqAction::Trigger, &fds)
            .context("bind the interrupt")?;
        if self.kind == Interrupt::Intx {
            let fds = [self.resample.as_fd()];
            self.client
                .set_irqs_eventfds(IrqIndex::INTX, 0, IrqAction::Unmask, &fds)
                .context("bind resample")?;
        }
        Ok(())
    }

    fn enable(&self) -> Result<()> {
        self.set_register(CC, 0)?;
        self.wait_ready(0)?;
        self.set_register(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1))?;
        self.set_queue(ASQ, RAM_IOVA)?;
        self.set_queue(ACQ, RAM_IOVA + COMPLETIONS as u64)?;
        self.set_register(CC, CC_ENABLE)?;
        self.wait_ready(1)
    }

    /// Sends Identify Controller with its data to `address`, and gives back what is in RAM afterwards.
    fn identify(&mut self, address: u64) -> Result<Vec<u8>> {
        ensure!(
            self.commands < ENTRIES - 1,
            "the queues are used once around only"
        );
        self.ram.write(DATA, &[0; 4096])?;
        let mut entry = [0u8; 64];
        entry[0] = 0x06; // Identify
        entry[2..4].copy_from_slice(&self.commands.to_le_bytes()[..2]);
        entry[24..32].copy_from_slice(&address.to_le_bytes());
        entry[40] = 1; // CNS: controller
        self.ram.write(self.commands as usize * 64, &entry)?;
        self.set_register(SUBMISSION_DOORBELL, self.commands + 1)?;
        self.wait_interrupt()?;
        let status = self
            .ram
            .load(COMPLETIONS + self.commands as usize * 16 + 12)?;
        ensure!(status & 1 << 16 != 0, "an interrupt, but no completion");
        self.commands += 1;
        self.set_register(COMPLETION_DOORBELL, self.commands)?;
        if self.kind == Interrupt::Intx {
            rustix::io::write(&self.resample, &1u64.to_ne_bytes())?;
        }
        ensure!(
            status >> 17 == 0,
            "Identify failed with status {:#x}",
            status >> 17
        );
        self.ram.read(DATA, 4096)
    }

    fn wait_interrupt(&self) -> Result<()> {
        let timeout = Timespec {
            tv_sec: i64::try_from(DEVICE_DEADLINE.as_secs())?,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.interrupt, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&timeout))? == 0 {
            bail!("no interrupt within {DEVICE_DEADLINE:?}");
        }
        let mut count = [0; 8];
        rustix::io::read(&self.interrupt, &mut count)?;
        Ok(())
    }

    fn wait_ready(&self, wanted: u32) -> Result<()> {
        let deadline = Instant::now() + DEVICE_DEADLINE;
        while self.register(CSTS)? & 1 != wanted {
            ensure!(
                Instant::now() < deadline,
                "CSTS.RDY does not become {wanted}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn set_queue(&self, offset: usize, address: u64) -> Result<()> {
        let [low, high] = [address & u64::from(u32::MAX), address >> 32];
        self.set_register(offset, u32::try_from(low)?)?;
        self.set_register(offset + 4, u32::try_from(high)?)
    }

    fn set_register(&self, offset: usize, value: u32) -> Result<()> {
        Ok(self.bar.volatile().store(value, offset, Ordering::SeqCst)?)
    }

    fn register(&self, offset: usize) -> Result<u32> {
        Ok(self.bar.volatile().load(offset, Ordering::SeqCst)?)
    }
}
