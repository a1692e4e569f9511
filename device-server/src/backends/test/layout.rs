//! What the test device looks like from outside: ids, BARs, interrupts. Described in docs/test-device.md.

use std::os::fd::OwnedFd;

use protocol::{IoFd, IoFdKind, IoFds, IrqInfoFlags, RegionFlags, RegionIndex, SparseArea};

use crate::backend::{DeviceDescription, Irq, Region};

/// PCI vendor id. Not assigned to anybody who makes devices (1d1d is CNEX Labs' range end; the pair is unused).
pub(super) const VENDOR_ID: u16 = 0x1d1d;
/// PCI device id.
pub(super) const DEVICE_ID: u16 = 0xb001;

/// Memory that clients map.
pub(super) const MAPPED_BAR: RegionIndex = RegionIndex::BAR0;
/// MSI-X table and PBA.
pub(super) const TABLE_BAR: RegionIndex = RegionIndex::BAR1;
/// Registers, a 64-bit BAR (BAR3 is its upper half).
pub(super) const REGISTER_BAR: RegionIndex = RegionIndex::BAR2;
/// The first registers once more, as I/O ports.
pub(super) const IO_BAR: RegionIndex = RegionIndex::BAR4;

/// Bytes of BAR0: more than fits into one message.
pub(super) const MAPPED_BAR_BYTES: u32 = 2 << 20;
/// Bytes of BAR1.
pub(super) const TABLE_BAR_BYTES: u32 = 4 << 10;
/// Bytes of BAR2.
pub(super) const REGISTER_BAR_BYTES: u32 = 4 << 10;
/// Bytes of BAR4.
pub(super) const IO_BAR_BYTES: u32 = 32;
/// Bytes of PCIe configuration space.
pub(super) const CONFIG_BYTES: u32 = 4096;

/// MSI-X vectors.
pub(super) const MSIX_VECTORS: u32 = 16;
/// MSI vectors.
pub(super) const MSI_VECTORS: u32 = 8;
/// Where in BAR1 the pending bits are; the table is at 0.
pub(super) const PBA_OFFSET: u32 = 0x800;

/// Where in BAR2 a write of four bytes rings.
pub(super) const DOORBELL: u32 = 0x44;
/// Where only one value rings without a message.
pub(super) const MATCHED_DOORBELL: u32 = 0x48;
/// That value.
pub(super) const DOORBELL_VALUE: u32 = 7;
/// Where in BAR2 the rings are counted.
pub(super) const RINGS: u32 = 0x4c;

/// The description for `server/`; `memory` is what clients map of BAR0, `doorbell` what their KVM signals.
pub(super) fn describe(memory: OwnedFd, doorbell: OwnedFd) -> DeviceDescription {
    let mapped = Region {
        flags: RegionFlags::READ | RegionFlags::WRITE,
        size: MAPPED_BAR_BYTES.into(),
        areas: vec![SparseArea {
            offset: 0,
            size: MAPPED_BAR_BYTES.into(),
        }],
        mmap_fd: Some(memory),
        mmap_offset: 0,
        io_fds: IoFds::default(),
    };
    let registers = Region {
        io_fds: doorbells(doorbell),
        ..Region::trapped(REGISTER_BAR_BYTES.into())
    };
    let edge = |count| Irq {
        flags: IrqInfoFlags::EVENTFD | IrqInfoFlags::MASKABLE,
        count,
    };
    let notice = Irq {
        flags: IrqInfoFlags::EVENTFD,
        count: 1,
    };
    let level = Irq {
        flags: IrqInfoFlags::EVENTFD | IrqInfoFlags::MASKABLE | IrqInfoFlags::AUTOMASKED,
        count: 1,
    };
    DeviceDescription {
        reset: true,
        regions: vec![
            mapped,
            Region::trapped(TABLE_BAR_BYTES.into()),
            registers,
            Region::absent(),
            Region::trapped(IO_BAR_BYTES.into()),
            Region::absent(),
            Region::absent(),
            Region::trapped(CONFIG_BYTES.into()),
            Region::absent(),
        ],
        irqs: vec![level, edge(MSI_VECTORS), edge(MSIX_VECTORS), notice, notice],
    }
}

/// Both doorbells ring through one eventfd.
fn doorbells(eventfd: OwnedFd) -> IoFds<OwnedFd> {
    let bell = |offset: u32, flags, datamatch| IoFd {
        offset: offset.into(),
        size: 4,
        fd_index: 0,
        flags,
        kind: IoFdKind::IoEventFd { datamatch },
    };
    IoFds {
        entries: vec![
            bell(DOORBELL, 0, 0),
            bell(MATCHED_DOORBELL, IoFd::DATAMATCH, DOORBELL_VALUE.into()),
        ],
        fds: vec![eventfd],
    }
}
