//! The VFIO ioctls that Bulkhead uses, one thin function each.
//!
//! Header: Linux `include/uapi/linux/vfio.h` (crate `vfio-bindings`). Group and type1 only. All functions take
//! file descriptors that somebody else opened: `vfio-ioctls` has no from-fd constructor for groups.
//! No policy here: what is checked before and what an error means is up to `group`, `device`, `irqs` and `dma`.
//! Limits: an answer with capabilities is at most `MAX_INFO_BYTES`; the kernel is trusted, its sizes are not copied blindly.
#![expect(unsafe_code, reason = "ioctls have no safe form")]
// UNSAFETY: every call passes a live fd and a buffer of the size that its argsz says, which outlives the call.

use std::ffi::{CString, c_int, c_ulong};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use protocol::IovaRange;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_TYPE, vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap, vfio_irq_info, vfio_region_info,
};
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use vmm_sys_util::ioctl_io_nr;

use crate::dma::mapping::Mapping;

const TYPE: u32 = VFIO_TYPE as u32;

ioctl_io_nr!(VFIO_GET_API_VERSION, TYPE, VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, TYPE, VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, TYPE, VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, TYPE, VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, TYPE, VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, TYPE, VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, TYPE, VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, TYPE, VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, TYPE, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, TYPE, VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, TYPE, VFIO_BASE + 11);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, TYPE, VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, TYPE, VFIO_BASE + 14);

/// Largest answer of GET_REGION_INFO that is read, in bytes: 64 KiB, some 4,000 sparse areas.
const MAX_INFO_BYTES: u32 = 64 * 1024;

/// A structure size as the `argsz` field wants it.
const fn argsz<T>() -> u32 {
    assert!(size_of::<T>() < 4096, "VFIO structures are small");
    #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
    let size = size_of::<T>() as u32;
    size
}

fn checked(result: c_int) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// VFIO_GET_API_VERSION of the container.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the fd is live (borrowed); the ioctl takes no argument.
    checked(unsafe { ioctl(&container, VFIO_GET_API_VERSION()) })
}

/// VFIO_CHECK_EXTENSION: whether the container knows this IOMMU type.
pub(super) fn has_extension(container: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
    // SAFETY: the fd is live (borrowed); the argument is a number, not a pointer.
    let result =
        unsafe { ioctl_with_val(&container, VFIO_CHECK_EXTENSION(), c_ulong::from(extension)) };
    checked(result).map(|supported| supported > 0)
}

/// VFIO_SET_IOMMU: the IOMMU of the container's group from now on works with this type.
pub(super) fn set_iommu(container: BorrowedFd<'_>, iommu_type: u32) -> io::Result<()> {
    // SAFETY: the fd is live (borrowed); the argument is a number, not a pointer.
    checked(unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), c_ulong::from(iommu_type)) })
        .map(drop)
}

/// VFIO_GROUP_GET_STATUS: the `VFIO_GROUP_FLAGS_*`.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = vfio_group_status {
        argsz: argsz::<vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the fd is live (borrowed); the kernel writes at most argsz bytes, the size of `status`.
    checked(unsafe { ioctl_with_mut_ref(&group, VFIO_GROUP_GET_STATUS(), &mut status) })?;
    Ok(status.flags)
}

/// VFIO_GROUP_SET_CONTAINER.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let fd: c_int = container.as_raw_fd();
    // SAFETY: both fds are live (borrowed); the kernel reads one c_int, which `fd` is.
    checked(unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &fd) }).map(drop)
}

/// VFIO_GROUP_GET_DEVICE_FD: opens the device of this name. The kernel enables it and resets it if it can.
pub(super) fn device_fd(group: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: the fd is live (borrowed); the kernel reads a NUL-terminated string, which `name` is.
    let fd = unsafe { ioctl_with_ptr(&group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this fd for us (checked above), and nothing else knows it. It has O_CLOEXEC.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// VFIO_DEVICE_GET_INFO.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<vfio_device_info> {
    let mut info = vfio_device_info {
        argsz: argsz::<vfio_device_info>(),
        ..vfio_device_info::default()
    };
    // SAFETY: the fd is live (borrowed); the kernel writes at most argsz bytes, the size of `info`.
    checked(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_INFO(), &mut info) })?;
    Ok(info)
}

/// VFIO_DEVICE_GET_REGION_INFO: the structure, and the whole answer with the capabilities behind it.
pub(super) fn region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> io::Result<(vfio_region_info, Vec<u8>)> {
    let mut info = vfio_region_info {
        argsz: argsz::<vfio_region_info>(),
        index,
        ..vfio_region_info::default()
    };
    // SAFETY: the fd is live (borrowed); the kernel writes at most argsz bytes, the size of `info`.
    checked(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) })?;
    if info.argsz <= argsz::<vfio_region_info>() {
        return Ok((info, Vec::new()));
    }
    // There are capabilities: ask again with room for them. u64 elements make the buffer aligned for the structure.
    let argsz = info.argsz.min(MAX_INFO_BYTES).next_multiple_of(8);
    let mut words = vec![0u64; usize::try_from(argsz / 8).map_err(io::Error::other)?];
    for (word, pair) in words.iter_mut().zip([[argsz, 0], [index, 0]]) {
        let [low, high] = pair.map(u32::to_ne_bytes);
        *word = u64::from_ne_bytes(join(low, high));
    }
    // SAFETY: the fd is live (borrowed); the kernel writes at most argsz bytes, the size of `words`.
    checked(unsafe {
        ioctl_with_mut_ptr(&device, VFIO_DEVICE_GET_REGION_INFO(), words.as_mut_ptr())
    })?;
    Ok((
        info,
        words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
    ))
}

fn join(low: [u8; 4], high: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = low;
    let [e, f, g, h] = high;
    [a, b, c, d, e, f, g, h]
}

/// VFIO_DEVICE_GET_IRQ_INFO.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<vfio_irq_info> {
    let mut info = vfio_irq_info {
        argsz: argsz::<vfio_irq_info>(),
        flags: 0,
        index,
        count: 0,
    };
    // SAFETY: the fd is live (borrowed); the kernel writes at most argsz bytes, the size of `info`.
    checked(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info)
}

/// What VFIO_DEVICE_SET_IRQS carries behind its header.
#[derive(Debug)]
pub(super) enum IrqPayload<'a> {
    /// VFIO_IRQ_SET_DATA_NONE.
    None,
    /// VFIO_IRQ_SET_DATA_BOOL.
    Bool(&'a [bool]),
    /// VFIO_IRQ_SET_DATA_EVENTFD; `None` takes the eventfd of that vector away.
    Eventfd(&'a [Option<BorrowedFd<'a>>]),
}

/// The header of VFIO_DEVICE_SET_IRQS.
#[derive(Debug, Clone, Copy)]
pub(super) struct IrqHeader {
    /// VFIO_IRQ_SET_DATA_* and VFIO_IRQ_SET_ACTION_*.
    pub(super) flags: u32,
    /// Interrupt index.
    pub(super) index: u32,
    /// First vector.
    pub(super) start: u32,
    /// Number of vectors.
    pub(super) count: u32,
}

/// VFIO_DEVICE_SET_IRQS. A result above 0 means that only so many vectors could be had, and none was set.
pub(super) fn set_irqs(
    device: BorrowedFd<'_>,
    header: IrqHeader,
    payload: &IrqPayload<'_>,
) -> io::Result<u32> {
    let mut words = vec![0, header.flags, header.index, header.start, header.count];
    match payload {
        IrqPayload::None => {}
        IrqPayload::Bool(values) => words.extend(values.chunks(4).map(|chunk| {
            let mut bytes = [0u8; 4];
            for (byte, value) in bytes.iter_mut().zip(chunk) {
                *byte = u8::from(*value);
            }
            u32::from_ne_bytes(bytes)
        })),
        IrqPayload::Eventfd(fds) => words.extend(fds.iter().map(|fd| {
            let number: c_int = fd.map_or(-1, |fd| fd.as_raw_fd());
            u32::from_ne_bytes(number.to_ne_bytes())
        })),
    }
    let bytes = words
        .len()
        .checked_mul(size_of::<u32>())
        .and_then(|bytes| u32::try_from(bytes).ok());
    let argsz = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    if let Some(first) = words.first_mut() {
        *first = argsz;
    }
    // SAFETY: the fd is live (borrowed); the kernel reads at most argsz bytes, the size of `words`; the fds in it
    // are borrowed for the call, and the kernel takes its own references.
    checked(unsafe { ioctl_with_ptr(&device, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) })
}

/// VFIO_DEVICE_RESET.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the fd is live (borrowed); the ioctl takes no argument.
    checked(unsafe { ioctl(&device, VFIO_DEVICE_RESET()) }).map(drop)
}

/// VFIO_IOMMU_MAP_DMA: the device reaches the memory of `mapping` at `range`, from its first byte on.
///
/// The pages are pinned: `mapping` may be dropped afterwards, and the device goes on reaching them.
pub(super) fn map_dma(
    container: BorrowedFd<'_>,
    mapping: &Mapping,
    range: IovaRange,
    flags: u32,
) -> io::Result<()> {
    if u64::try_from(mapping.len()) != Ok(range.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let address = mapping.address().as_ptr().expose_provenance();
    let map = vfio_iommu_type1_dma_map {
        argsz: argsz::<vfio_iommu_type1_dma_map>(),
        flags,
        vaddr: u64::try_from(address).map_err(io::Error::other)?,
        iova: range.start().0,
        size: range.len(),
    };
    // SAFETY:
    // - the fd is live (borrowed); the kernel reads argsz bytes, the size of `map`;
    // - the pages that the device will write are a shared mapping of a client's file and nothing else of this
    //   process: `Mapping` is only made by `Mapping::new`, its length is `range.len()` (checked above), and nothing
    //   forms references to it.
    checked(unsafe { ioctl_with_ref(&container, VFIO_IOMMU_MAP_DMA(), &map) }).map(drop)
}

/// VFIO_IOMMU_UNMAP_DMA: the number of bytes that the device does not reach any more.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, range: IovaRange) -> io::Result<u64> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: argsz::<vfio_iommu_type1_dma_unmap>(),
        iova: range.start().0,
        size: range.len(),
        ..vfio_iommu_type1_dma_unmap::default()
    };
    // SAFETY: the fd is live (borrowed); the kernel reads and writes at most argsz bytes, the size of `unmap`.
    checked(unsafe { ioctl_with_mut_ref(&container, VFIO_IOMMU_UNMAP_DMA(), &mut unmap) })?;
    Ok(unmap.size)
}
