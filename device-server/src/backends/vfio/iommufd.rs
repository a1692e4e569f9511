//! An iommufd with one address space: the other kind of authority over the devices that a server serves.
//!
//! Linux `Documentation/userspace-api/iommufd.rst`. Each device has a node of its own, is bound to the iommufd and attached to
//! the address space. The first device that is bound takes its whole IOMMU group: another server's device of the same group
//! cannot be bound. Guest memory is mapped by file (IOMMU_IOAS_MAP_FILE): this process never maps it.
//! Through `iommufd-ioctls`; what that crate lacks is in `ioctls`.
//! Limit: what the kernel counts as locked memory it counts per user, so each server has one of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use iommufd_bindings::iommufd::{
    iommu_ioas_alloc, iommu_ioas_map_file, iommu_ioas_unmap,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
};
use iommufd_ioctls::{IommuFd, IommufdError};
use protocol::{DmaMapFlags, IovaRange, PciAddress};
use rustix::io::Errno;

use super::coherency::Coherency;
use super::error::OpenError;
use super::ioctls::{self, HardwareInfo, argsz};
use super::members::Members;

/// An object id that no iommufd has: ids begin at 1.
const NO_OBJECT: u32 = 0;

/// Between two tries to bind a device whose group is about to close.
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// The iommufd and its address space.
pub(super) struct Iommufd {
    fd: OwnedFd,
    /// What `calls` has, a copy of `fd`.
    copy: RawFd,
    calls: IommuFd,
    ioas: u32,
}

impl std::fmt::Debug for Iommufd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iommufd")
            .field("fd", &self.fd)
            .field("ioas", &self.ioas)
            .finish_non_exhaustive()
    }
}

/// Whether this iommufd can map files. Makes nothing.
pub(super) fn maps_files(iommufd: BorrowedFd<'_>) -> io::Result<bool> {
    let calls = IommuFd::new_from_fd(iommufd.try_clone_to_owned()?.into());
    let map = iommu_ioas_map_file {
        size: argsz::<iommu_ioas_map_file>(),
        flags: READABLE | FIXED_IOVA,
        ioas_id: NO_OBJECT,
        fd: -1,
        start: 0,
        length: 0,
        iova: 0,
    };
    // A kernel that knows the call looks for the address space first, and there is none.
    let answer = calls
        .map_iommu_ioas_file(&map)
        .map_err(|error| io_error(&error));
    Ok(!matches!(answer, Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTTY)))
}

impl Iommufd {
    /// Takes a fresh /dev/iommu and makes an address space in it.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Iommufd> {
        let copy = fd.try_clone()?;
        let number = copy.as_raw_fd();
        let calls = IommuFd::new_from_fd(copy.into());
        let mut alloc = iommu_ioas_alloc {
            size: argsz::<iommu_ioas_alloc>(),
            flags: 0,
            out_ioas_id: 0,
        };
        calls
            .alloc_iommu_ioas(&mut alloc)
            .map_err(|error| io_error(&error))?;
        Ok(Iommufd {
            fd,
            copy: number,
            calls,
            ioas: alloc.out_ioas_id,
        })
    }

    /// The number of the descriptor that maps.
    pub(super) fn number(&self) -> RawFd {
        self.copy
    }

    /// Opens the device behind a node's descriptor, which resets it if it can be, for this iommufd only. Its number in it.
    pub(super) fn bind(&self, device: BorrowedFd<'_>) -> io::Result<u32> {
        ioctls::bind_iommufd(device, self.fd.as_fd())
    }

    /// DMA of a bound device from now on goes through the address space.
    pub(super) fn attach(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        ioctls::attach_ioas(device, self.ioas)
    }

    /// Binds it, once its group is closed, which may take so long.
    fn bind_within(&self, device: BorrowedFd<'_>, patience: Duration) -> io::Result<u32> {
        let deadline = Instant::now().checked_add(patience);
        loop {
            match self.bind(device) {
                Err(error)
                    if Errno::from_io_error(&error) == Some(Errno::BUSY)
                        && deadline.is_some_and(|deadline| Instant::now() < deadline) =>
                {
                    sleep(BIND_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Binds and attaches, at the start, with the reason where it fails. `patience`: for the group to close. A device without IOMMU is refused: iommufd would take it.
    pub(super) fn take(
        &self,
        members: &Members,
        address: PciAddress,
        device: &OwnedFd,
        patience: Duration,
    ) -> Result<Coherency, OpenError> {
        let device = device.as_fd();
        let id = self
            .bind_within(device, patience)
            .map_err(|source| bind_error(members, address, source))?;
        let coherency = self.coherency(id).map_err(|source| {
            if Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) {
                return OpenError::NoIommuMode(address);
            }
            OpenError::step("ask what the IOMMU can do for DMA", address)(source)
        })?;
        self.attach(device)
            .map_err(OpenError::step("give DMA an address space", address))?;
        Ok(coherency)
    }

    fn coherency(&self, device: u32) -> io::Result<Coherency> {
        let info = ioctls::hardware_info(&self.calls, device).map_err(|error| io_error(&error))?;
        Ok(match info {
            HardwareInfo::IntelVtd {
                snoop_control: true,
            }
            | HardwareInfo::Amd => Coherency::Enforced,
            HardwareInfo::IntelVtd {
                snoop_control: false,
            } => Coherency::NotEnforced("its IOMMU has no snoop control"),
            HardwareInfo::Other => {
                Coherency::NotEnforced("its IOMMU does not say that it enforces snooping")
            }
        })
    }

    /// The address ranges that its devices can reach: first and last byte of each.
    pub(super) fn ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        ioctls::iova_ranges(self.fd.as_fd(), self.ioas)
    }

    /// Makes a part of a file reachable for the devices. The kernel keeps the memory: the file may be closed afterwards.
    pub(super) fn map_file(
        &self,
        file: BorrowedFd<'_>,
        file_offset: u64,
        range: IovaRange,
        access: DmaMapFlags,
    ) -> io::Result<()> {
        let mut flags = FIXED_IOVA;
        if access.contains(DmaMapFlags::READ) {
            flags |= READABLE;
        }
        if access.contains(DmaMapFlags::WRITE) {
            flags |= WRITEABLE;
        }
        let map = iommu_ioas_map_file {
            size: argsz::<iommu_ioas_map_file>(),
            flags,
            ioas_id: self.ioas,
            fd: file.as_raw_fd(),
            start: file_offset,
            length: range.len(),
            iova: range.start().0,
        };
        self.calls
            .map_iommu_ioas_file(&map)
            .map_err(|error| io_error(&error))
    }

    /// Undoes one whole `map_file`: the number of bytes that the devices do not reach any more.
    pub(super) fn unmap(&self, range: IovaRange) -> io::Result<u64> {
        let mut unmap = iommu_ioas_unmap {
            size: argsz::<iommu_ioas_unmap>(),
            ioas_id: self.ioas,
            iova: range.start().0,
            length: range.len(),
        };
        self.calls
            .unmap_iommu_ioas(&mut unmap)
            .map_err(|error| io_error(&error))?;
        Ok(unmap.length)
    }
}

fn bind_error(members: &Members, address: PciAddress, source: io::Error) -> OpenError {
    match Errno::from_io_error(&source) {
        Some(Errno::PERM) => OpenError::NoInterruptRemapping(address),
        // The group is open somewhere else, or a device of it is the host's.
        Some(Errno::BUSY) if members.blockers().is_empty() => members.busy(),
        Some(Errno::BUSY) => members.not_viable(),
        Some(Errno::INVAL) if !members.holders().is_empty() => members.busy(),
        Some(Errno::INVAL) => OpenError::NotBindable(address),
        _ => OpenError::step("bind to the iommufd VFIO device", address)(source),
    }
}

/// What the kernel said: the crate has it as the cause of its own error.
fn io_error(error: &IommufdError) -> io::Error {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<vmm_sys_util::errno::Error>()) {
        Some(errno) => io::Error::from_raw_os_error(errno.errno()),
        None => io::Error::other(error.to_string()),
    }
}
