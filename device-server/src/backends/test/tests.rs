use std::os::fd::OwnedFd;

use protocol::{DmaMapFlags, Iova, IrqAction, IrqData};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

/// No memory by messages.
struct NoMessages;

impl MessageDma for NoMessages {
    fn read(&mut self, _iova: Iova, _data: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::NOTSUP)
    }

    fn write(&mut self, _iova: Iova, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::NOTSUP)
    }
}

fn device() -> TestDevice {
    TestDevice::new(TestDeviceOptions {
        message_dma: false,
        max_dma_maps: 16,
    })
    .expect("device")
}

fn write(device: &mut TestDevice, region: RegionIndex, offset: u64, data: &[u8]) {
    device
        .region_write(region, offset, data, &mut NoMessages)
        .expect("write");
}

fn read_u32(device: &mut TestDevice, region: RegionIndex, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.region_read(region, offset, &mut data).expect("read");
    u32::from_le_bytes(data)
}

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

fn fired(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

fn bind(device: &mut TestDevice, index: IrqIndex, start: u32) -> OwnedFd {
    let fd = eventfd();
    let data = IrqData::Eventfd(vec![fd.try_clone().expect("dup").into()]);
    device
        .set_irqs(SetIrqs {
            index,
            start,
            count: 1,
            action: IrqAction::Trigger,
            data,
        })
        .expect("bind");
    fd
}

/// A device with one page of client memory at 0x10000 and bus mastering on.
fn device_with_memory() -> (TestDevice, OwnedFd) {
    let mut device = device();
    let fd = rustix::fs::memfd_create("client", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("memfd");
    rustix::fs::ftruncate(&fd, 0x1000).expect("size");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("seal");
    let range = IovaRange::new(Iova(0x10000), 0x1000).expect("range");
    let copy = fd.try_clone().expect("dup");
    device
        .dma_map(&DmaMap {
            range,
            file_offset: 0,
            flags: DmaMapFlags::READ_WRITE,
            fd: Some(copy.into()),
        })
        .expect("map");
    write(&mut device, RegionIndex::CONFIG, 4, &[0x04, 0]);
    (device, fd)
}

fn start_job(
    device: &mut TestDevice,
    source: u64,
    destination: u64,
    len: u32,
    command: u32,
) -> u32 {
    let mut job = Vec::new();
    job.extend_from_slice(&source.to_le_bytes());
    job.extend_from_slice(&destination.to_le_bytes());
    job.extend_from_slice(&len.to_le_bytes());
    job.extend_from_slice(&command.to_le_bytes());
    write(device, layout::REGISTER_BAR, 0x20, &job);
    read_u32(device, layout::REGISTER_BAR, 0x38)
}

#[test]
fn dma_copy_moves_client_memory() {
    let (mut device, fd) = device_with_memory();
    rustix::io::pwrite(&fd, b"bulkhead", 0).expect("fill");
    assert_eq!(start_job(&mut device, 0x10000, 0x10800, 8, 1), 1);
    let mut copied = [0; 8];
    rustix::io::pread(&fd, &mut copied, 0x800).expect("look");
    assert_eq!(&copied, b"bulkhead");
}

#[test]
fn dma_without_bus_master_or_outside_the_maps_is_refused() {
    let (mut device, _fd) = device_with_memory();
    assert_eq!(
        start_job(&mut device, 0x10000, 0x10ffc, 8, 1),
        2 | (14 << 16)
    );
    write(&mut device, RegionIndex::CONFIG, 4, &[0, 0]);
    assert_eq!(
        start_job(&mut device, 0x10000, 0x10800, 8, 1),
        2 | (1 << 16)
    );
}

#[test]
fn dma_completion_raises_the_interrupt_it_names() {
    let (mut device, _fd) = device_with_memory();
    let vector = bind(&mut device, IrqIndex::MSIX, 3);
    write(
        &mut device,
        layout::REGISTER_BAR,
        0x40,
        &0x0002_0003u32.to_le_bytes(),
    );
    assert_eq!(start_job(&mut device, 0x10000, 0x10800, 8, 0x8000_0001), 1);
    assert_eq!(fired(&vector), 1);
}

#[test]
fn dma_fill_and_sum_work_on_client_memory() {
    let (mut device, _fd) = device_with_memory();
    write(
        &mut device,
        layout::REGISTER_BAR,
        0x08,
        &0x0101_0101u32.to_le_bytes(),
    );
    assert_eq!(start_job(&mut device, 0, 0x10000, 0x1000, 2), 1);
    assert_eq!(start_job(&mut device, 0x10000, 0, 0x1000, 3), 1);
    assert_eq!(read_u32(&mut device, layout::REGISTER_BAR, 0x3c), 0x1000);
}

#[test]
fn io_bar_shows_the_first_registers() {
    let mut device = device();
    write(&mut device, layout::IO_BAR, 0x08, &[1, 2, 3, 4]);
    assert_eq!(
        read_u32(&mut device, layout::REGISTER_BAR, 0x08),
        0x0403_0201
    );
    assert_eq!(
        read_u32(&mut device, layout::IO_BAR, 0),
        u32::from_le_bytes(*b"BLKT")
    );
}

#[test]
fn intx_follows_the_level_register_and_the_command_register() {
    let mut device = device();
    let line = bind(&mut device, IrqIndex::INTX, 0);
    write(&mut device, layout::REGISTER_BAR, 0x14, &[1, 0, 0, 0]);
    assert_eq!(fired(&line), 1);
    assert_eq!(read_u32(&mut device, RegionIndex::CONFIG, 4) >> 16 & 8, 8);
    write(&mut device, RegionIndex::CONFIG, 4, &[0, 0x04]);
    let unmask = SetIrqs {
        index: IrqIndex::INTX,
        start: 0,
        count: 1,
        action: IrqAction::Unmask,
        data: IrqData::None,
    };
    device.set_irqs(unmask).expect("unmask");
    assert_eq!(fired(&line), 0, "disabled in the command register");
    write(&mut device, RegionIndex::CONFIG, 4, &[0, 0]);
    assert_eq!(fired(&line), 1);
}

#[test]
fn mapped_bar_is_the_same_memory_by_message_and_by_mapping() {
    let mut device = device();
    write(&mut device, layout::MAPPED_BAR, 0x1000, b"page one");
    let region = device.describe().region(layout::MAPPED_BAR).expect("BAR0");
    let mut data = [0; 8];
    rustix::io::pread(region.mmap_fd.as_ref().expect("fd"), &mut data, 0x1000).expect("look");
    assert_eq!(&data, b"page one");
}

#[test]
fn client_gone_leaves_nothing_for_the_next_client() {
    let (mut device, _fd) = device_with_memory();
    let vector = bind(&mut device, IrqIndex::MSIX, 0);
    write(&mut device, layout::MAPPED_BAR, 0, b"secret");
    let old = device
        .describe()
        .region(layout::MAPPED_BAR)
        .expect("BAR0")
        .mmap_fd
        .as_ref()
        .expect("fd")
        .try_clone();
    let old = old.expect("the old client keeps it");
    device.client_gone().expect("cleaned");
    assert_eq!(read_u32(&mut device, layout::MAPPED_BAR, 0), 0);
    rustix::io::pwrite(&old, b"poison", 0).expect("still the old client's");
    assert_eq!(
        read_u32(&mut device, layout::MAPPED_BAR, 0),
        0,
        "not the next client's memory"
    );
    write(&mut device, RegionIndex::CONFIG, 4, &[0x04, 0]);
    assert_eq!(
        start_job(&mut device, 0x10000, 0x10800, 8, 1),
        2 | (14 << 16)
    );
    write(
        &mut device,
        layout::REGISTER_BAR,
        0x10,
        &0x0002_0000u32.to_le_bytes(),
    );
    assert_eq!(fired(&vector), 0);
}
