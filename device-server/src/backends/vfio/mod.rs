//! A real PCI device of the host, through its VFIO group.
//!
//! The only code of Bulkhead that speaks VFIO. `open` is called before the sandbox closes; afterwards the device needs
//! the ioctls SET_IRQS, RESET, GROUP_GET_DEVICE_FD and DEVICE_GET_INFO (for the next client), MAP_DMA and UNMAP_DMA, and
//! pread and pwrite on the device fd. No iommufd, no migration, no hot reset of a whole bus.

mod device;
mod group;
mod dma;
mod irqs;
mod config;
mod regions;
mod reset;
mod capabilities;
mod spec;
mod error;
mod ioctls;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{DmaMap, Errno, IovaRange, PciAddress, RegionIndex, SetIrqs};

use self::device::VfioDevice;
use self::dma::{DmaSpace, SessionId, Type1};
pub use self::error::OpenError;
use self::group::{Group, GroupFds};
use crate::backend::{Backend, DeviceDescription, MessageDma};
use crate::host::device::Sysfs;

/// How devices are opened.
#[derive(Debug)]
pub struct OpenOptions {
    /// Serve a device that cannot be reset.
    pub allow_no_reset: bool,
    /// /dev/vfio/vfio, opened by somebody else. Together with `group_fd`.
    pub container_fd: Option<OwnedFd>,
    /// /dev/vfio/GROUP, opened by somebody else.
    pub group_fd: Option<OwnedFd>,
}

/// A device to open.
#[derive(Debug, Clone, Copy)]
pub struct WantedDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Whether its client may map its BARs.
    pub bar_mmap: bool,
}

/// Opens the `wanted` devices, all of one IOMMU group: one backend for each, in this order.
///
/// The backends share the group and its DMA address space (see `dma`). Dropping the last one closes the group.
pub fn open(
    wanted: &[WantedDevice],
    options: &OpenOptions,
) -> Result<Vec<Box<dyn Backend>>, OpenError> {
    let sysfs = Sysfs::of_host();
    let hosts: Vec<PciAddress> = wanted.iter().map(|device| device.address).collect();
    let fds = inherited_fds(&hosts, options)?;
    let group = Arc::new(Group::open(&sysfs, &hosts, fds)?);
    let mut devices = Vec::new();
    for device in wanted {
        devices.push(VfioDevice::open(
            &sysfs,
            &group,
            *device,
            options.allow_no_reset,
        )?);
    }
    let first = hosts.first().copied().ok_or(OpenError::NoDevices)?;
    let container = group.container().try_clone_to_owned();
    let container = container.map_err(OpenError::step(
        "duplicate the container's file descriptor",
        first,
    ))?;
    let dma = Arc::new(Mutex::new(DmaSpace::new(Type1::new(container))));
    let backends = devices
        .into_iter()
        .zip((0..).map(SessionId))
        .map(|(device, session)| {
            let backend = VfioBackend {
                device,
                session,
                dma: Arc::clone(&dma),
                group: Arc::clone(&group),
            };
            Box::new(backend) as Box<dyn Backend>
        });
    Ok(backends.collect())
}

fn inherited_fds(
    hosts: &[PciAddress],
    options: &OpenOptions,
) -> Result<Option<GroupFds>, OpenError> {
    let first = hosts.first().copied().ok_or(OpenError::NoDevices)?;
    let duplicate = |fd: &OwnedFd| {
        fd.try_clone().map_err(OpenError::step(
            "duplicate the file descriptors that were passed",
            first,
        ))
    };
    match (&options.container_fd, &options.group_fd) {
        (None, None) => Ok(None),
        (Some(container), Some(group)) => Ok(Some(GroupFds {
            container: duplicate(container)?,
            group: duplicate(group)?,
        })),
        (Some(_), None) | (None, Some(_)) => Err(OpenError::HalfTheFds),
    }
}

/// A device of the group, for one session at a time.
#[derive(Debug)]
struct VfioBackend {
    // Fields drop in this order: the device closes before the group does.
    device: VfioDevice,
    session: SessionId,
    dma: Arc<Mutex<DmaSpace<Type1>>>,
    group: Arc<Group>,
}

impl VfioBackend {
    fn dma(&self) -> MutexGuard<'_, DmaSpace<Type1>> {
        // A panic in another session's thread aborts the process in releases; in tests the table is still sound,
        // since each call leaves it so before it can panic.
        self.dma.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for VfioBackend {
    fn describe(&self) -> &DeviceDescription {
        self.device.description()
    }

    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        self.device.read(region, offset, data)
    }

    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        _dma: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.device.write(region, offset, data)
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        self.device.set_irqs(request)
    }

    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.dma().map(self.session, map)
    }

    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.dma().unmap(self.session, range)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.device.reset()
    }

    fn client_gone(&mut self) -> Result<(), Errno> {
        // 1. The device starts no transfer and raises no interrupt any more.
        let stopped = self.device.stop();
        // 2. It reaches no memory of this client any more.
        let unmapped = self.dma().unmap_all(self.session);
        // 3. It is reset, and nothing that the client wrote is left in it.
        let renewed = self.device.renew(&self.group);
        stopped.and(unmapped).and(renewed)
    }
}
