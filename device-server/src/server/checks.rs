//! What a request must satisfy that depends on the device: its regions, its interrupts, the memory it is given.
//!
//! Pure, but for the questions to the kernel about file descriptors.

use std::os::fd::AsFd;

use protocol::{
    BadField, DmaMap, Errno, IrqAction, IrqData, IrqInfoFlags, ReceivedFd, RegionFlags,
    RegionIndex, SetIrqs,
};

use crate::backend::{DeviceDescription, Irq, Region};
use crate::dma::MemorySource;

/// Where a read or write goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) region: RegionIndex,
    pub(super) offset: u64,
    pub(super) count: u64,
    /// READ or WRITE.
    pub(super) needs: RegionFlags,
}

/// The region at an index that PCI defines; it may have size 0.
pub(super) fn region(device: &DeviceDescription, index: RegionIndex) -> Result<&Region, BadField> {
    device
        .region(index)
        .ok_or(BadField::invalid("index", index.0))
}

/// A region that the device has.
pub(super) fn existing_region(
    device: &DeviceDescription,
    index: RegionIndex,
) -> Result<&Region, BadField> {
    region(device, index)
        .ok()
        .filter(|region| region.size > 0)
        .ok_or(BadField::invalid("region", index.0))
}

/// The access lies in a region that allows it.
pub(super) fn access(device: &DeviceDescription, target: Target) -> Result<(), BadField> {
    let region = existing_region(device, target.region)?;
    let end = target.offset.checked_add(target.count);
    if end.is_none_or(|end| end > region.size) {
        return Err(BadField::invalid("offset", target.offset));
    }
    if !region.flags.contains(target.needs) {
        return Err(
            BadField::invalid("region (read-only or write-only)", target.region.0)
                .with_errno(Errno::PERM),
        );
    }
    Ok(())
}

/// The vectors exist, can be masked if that is asked, and every descriptor is an eventfd, which closes at once.
pub(super) fn irqs(irq: Irq, request: SetIrqs) -> Result<SetIrqs, BadField> {
    let end = request.start.checked_add(request.count);
    if end.is_none_or(|end| end > irq.count) {
        return Err(BadField::invalid(
            "start + count",
            request.start.saturating_add(request.count),
        ));
    }
    let masks = match request.action {
        IrqAction::Mask | IrqAction::Unmask => true,
        IrqAction::Trigger => false,
    };
    if masks && !irq.flags.contains(IrqInfoFlags::MASKABLE) {
        return Err(BadField::invalid(
            "flags (the index cannot be masked)",
            request.index.0,
        ));
    }
    let fds = match request.data {
        IrqData::None | IrqData::Bool(_) => return Ok(request),
        IrqData::Eventfd(fds) => fds,
    };
    if let Some(position) = fds
        .iter()
        .position(|fd| !crate::irq::is_eventfd(fd.as_fd()))
    {
        return Err(BadField::invalid(
            "file descriptor (not an eventfd)",
            u64::try_from(position).unwrap_or(u64::MAX),
        ));
    }
    let eventfds = fds.into_iter().map(ReceivedFd::harmless).collect();
    Ok(SetIrqs {
        data: IrqData::Eventfd(eventfds),
        ..request
    })
}

/// The memory of a map is of a kind that can be shared, which closes at once; memory without a descriptor always is.
pub(super) fn memory(map: DmaMap) -> Result<DmaMap, BadField> {
    let Some(fd) = map.fd else { return Ok(map) };
    if let Err(refusal) = MemorySource::check(fd.as_fd(), map.file_offset, map.range, map.flags) {
        return Err(BadField {
            errno: refusal.errno,
            field: refusal.reason,
            value: map.file_offset,
        });
    }
    Ok(DmaMap {
        fd: Some(fd.harmless()),
        ..map
    })
}
