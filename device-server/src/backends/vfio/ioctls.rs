//! The VFIO ioctls that Bulkhead uses, one thin function each, and those of iommufd that `iommufd-ioctls` lacks.
//!
//! Headers: Linux `include/uapi/linux/vfio.h` and `iommufd.h` (crates `vfio-bindings`, `iommufd-bindings`). All functions
//! take file descriptors that somebody else opened: `vfio-ioctls` has no from-fd constructor for groups.
//! No policy here: what is checked before and what an error means is up to the modules above.
//! Limits: an answer with capabilities is at most `MAX_INFO_BYTES`; the kernel is trusted, its sizes are not copied blindly.
#![expect(unsafe_code, reason = "ioctls have no safe form")]
// UNSAFETY: every call passes a live fd and a buffer of the size that its argsz says, which outlives the call.

use std::ffi::{CString, c_int, c_ulong};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use iommufd_bindings::iommufd::{
    iommu_hw_info, iommu_hw_info_type_IOMMU_HW_INFO_TYPE_AMD as AMD,
    iommu_hw_info_type_IOMMU_HW_INFO_TYPE_INTEL_VTD as INTEL_VTD, iommu_hw_info_vtd,
    iommu_ioas_iova_ranges, iommu_iova_range,
};
use iommufd_ioctls::{IommuFd, IommufdError};
use protocol::IovaRange;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_TYPE, vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd,
    vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_irq_info, vfio_region_info,
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
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, TYPE, VFIO_BASE + 18);
ioctl_io_nr!(VFIO_DEVICE_ATTACH_IOMMUFD_PT, TYPE, VFIO_BASE + 19);
// iommufd has the same type as VFIO, and numbers from 0x80 on.
ioctl_io_nr!(IOMMU_IOAS_IOVA_RANGES, TYPE, 0x84);

/// Largest answer of IOVA_RANGES that is read: PCs have two or three ranges, around 0xfee00000 and above.
const MAX_IOVA_RANGES: usize = 256;

/// Largest answer of GET_REGION_INFO that is read, in bytes: 64 KiB, some 4,000 sparse areas.
const MAX_INFO_BYTES: u32 = 64 * 1024;

/// A structure size as the `argsz` field wants it.
pub(super) const fn argsz<T>() -> u32 {
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

/// VFIO_DEVICE_BIND_IOMMUFD: opens the device behind a cdev, which resets it if it can be, and gives its DMA to this
/// iommufd. The device's number in the iommufd. EINVAL if it is open somewhere else, EBUSY if its group is.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    // Kernels that do not know the token refuse a structure that has room for it.
    let size = std::mem::offset_of!(vfio_device_bind_iommufd, token_uuid_ptr);
    let mut bind = vfio_device_bind_iommufd {
        argsz: u32::try_from(size).map_err(io::Error::other)?,
        iommufd: iommufd.as_raw_fd(),
        ..vfio_device_bind_iommufd::default()
    };
    // SAFETY: both fds are live (borrowed); the kernel reads and writes at most argsz bytes, a part of `bind`.
    checked(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) })?;
    Ok(bind.out_devid)
}

/// VFIO_DEVICE_ATTACH_IOMMUFD_PT: the DMA of a bound device goes through this address space of its iommufd.
pub(super) fn attach_ioas(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
    let size = std::mem::offset_of!(vfio_device_attach_iommufd_pt, pasid);
    let mut attach = vfio_device_attach_iommufd_pt {
        argsz: u32::try_from(size).map_err(io::Error::other)?,
        pt_id: ioas,
        ..vfio_device_attach_iommufd_pt::default()
    };
    // SAFETY: the fd is live (borrowed); the kernel reads and writes at most argsz bytes, a part of `attach`.
    checked(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) })
        .map(drop)
}

/// IOMMU_IOAS_IOVA_RANGES: the address ranges that can be mapped, first and last byte of each.
pub(super) fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = [iommu_iova_range { start: 0, last: 0 }; MAX_IOVA_RANGES];
    let mut query = iommu_ioas_iova_ranges {
        size: argsz::<iommu_ioas_iova_ranges>(),
        ioas_id: ioas,
        num_iovas: u32::try_from(ranges.len()).map_err(io::Error::other)?,
        __reserved: 0,
        allowed_iovas: u64::try_from(ranges.as_mut_ptr().expose_provenance())
            .map_err(io::Error::other)?,
        out_iova_alignment: 0,
    };
    // SAFETY: the fd is live (borrowed); the kernel reads and writes `size` bytes of `query`, and at most `num_iovas`
    // elements at `allowed_iovas`, which is what `ranges` has; it outlives the call.
    checked(unsafe { ioctl_with_mut_ref(&iommufd, IOMMU_IOAS_IOVA_RANGES(), &mut query) })?;
    let count = usize::try_from(query.num_iovas).map_err(io::Error::other)?;
    Ok(ranges
        .iter()
        .take(count)
        .map(|range| (range.start, range.last))
        .collect())
}

/// What kind of IOMMU is behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HardwareInfo {
    /// Intel VT-d; bit 7 of its extended capabilities says whether it can make all DMA snoop (VT-d specification, "SC").
    IntelVtd {
        /// It can, and then the kernel has it do so.
        snoop_control: bool,
    },
    /// AMD-Vi, for which the kernel says that all DMA snoops.
    Amd,
    /// Another one, or one of which the kernel says nothing.
    Other,
}

/// IOMMU_GET_HW_INFO of a bound device. EOPNOTSUPP if it has no IOMMU at all.
pub(super) fn hardware_info(iommufd: &IommuFd, device: u32) -> Result<HardwareInfo, IommufdError> {
    const SNOOP_CONTROL: u64 = 1 << 7;
    let mut vtd = iommu_hw_info_vtd::default();
    let mut info = iommu_hw_info {
        size: argsz::<iommu_hw_info>(),
        dev_id: device,
        data_len: argsz::<iommu_hw_info_vtd>(),
        // The kernel writes at most data_len bytes, the size of `vtd`, which outlives the call.
        data_uptr: (&raw mut vtd).expose_provenance() as u64,
        ..iommu_hw_info::default()
    };
    iommufd.get_hw_info(&mut info)?;
    // SAFETY: both names of the union are a u32, and the kernel has written it.
    let kind = unsafe { info.__bindgen_anon_1.out_data_type };
    Ok(match kind {
        INTEL_VTD => HardwareInfo::IntelVtd {
            snoop_control: vtd.ecap_reg & SNOOP_CONTROL != 0,
        },
        AMD => HardwareInfo::Amd,
        _ => HardwareInfo::Other,
    })
}
