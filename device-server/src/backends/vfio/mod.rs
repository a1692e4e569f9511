//! A real PCI device of the host, through VFIO.
//!
//! The only code of Bulkhead that speaks VFIO. `open` is called before the sandbox closes, and says which descriptors the
//! devices need afterwards (`sandbox::roles::vfio` says what for); so does `open_early`, which leaves the device to be opened in it. No migration, no hot reset of a whole bus.

mod opening;
mod early;
mod device;
mod renewal;
mod file_maps;
mod type1;
mod dma;
mod choice;
mod node;
mod group;
mod iommufd;
mod members;
mod coherency;
mod irqs;
mod config;
mod regions;
mod reset;
mod capabilities;
mod spec;
mod error;
mod ioctls;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{DmaMap, Errno, IovaRange, PciAddress, RegionIndex, SetIrqs};

use sandbox::roles::Folder;
use sandbox::roles::vfio::VfioDescriptors;

pub use self::choice::IommuBackend;
use self::choice::{Way, choose};
use self::dma::{DmaSpace, Iommu, SessionId};
pub use self::early::Unopened;
use self::early::{Begun, Device};
pub use self::error::OpenError;
use self::members::Members;
use self::opening::{Allowed, Opened, through_group, through_iommufd};
use crate::backend::{Backend, DeviceDescription, MessageDma};

/// How devices are opened.
#[derive(Debug)]
pub struct OpenOptions {
    /// Serve a device that cannot be reset.
    pub allow_no_reset: bool,
    /// Serve a device whose DMA may bypass the CPU's caches where the guest cannot do so.
    pub allow_noncoherent: bool,
    /// Which way to the IOMMU.
    pub iommu: IommuBackend,
    /// Nodes that somebody else opened. Without any this process looks for them itself.
    pub given: GivenFds,
}

/// Nodes that somebody else opened: those of the group, or /dev/iommu with a node for each device, or both for this process
/// to choose.
#[derive(Debug, Default)]
pub struct GivenFds {
    /// /dev/vfio/vfio, together with `group`.
    pub container: Option<OwnedFd>,
    /// /dev/vfio/GROUP.
    pub group: Option<OwnedFd>,
    /// /dev/iommu, together with `WantedDevice::node` of each device.
    pub iommufd: Option<OwnedFd>,
}

/// A device to open.
#[derive(Debug)]
pub struct WantedDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Whether its client may map its BARs.
    pub bar_mmap: bool,
    /// Whether further clients may come after the first.
    pub renewed: bool,
    /// /dev/vfio/devices/vfioN, opened by somebody else.
    pub node: Option<OwnedFd>,
}

impl OpenOptions {
    fn allowed(&self) -> Allowed {
        Allowed {
            no_reset: self.allow_no_reset,
            noncoherent: self.allow_noncoherent,
        }
    }
}

/// Devices that are open, or left to be.
#[derive(Debug)]
pub struct OpenDevices {
    /// One for each, in the order in which they were wanted.
    pub backends: Vec<Box<dyn Backend>>,
    /// The descriptors that they need from now on, by number.
    pub descriptors: VfioDescriptors,
    /// What they need of folders.
    pub folders: Vec<Folder>,
}

/// Opens the `wanted` devices, all of one IOMMU group.
///
/// The backends share the group and its DMA address space (see `dma`). Dropping the last one closes the group.
pub fn open(mut wanted: Vec<WantedDevice>, options: OpenOptions) -> Result<OpenDevices, OpenError> {
    let allowed = options.allowed();
    let (members, way) = choose(&mut wanted, options.iommu, options.given)?;
    let opened = match way {
        Way::Type1(fds) => through_group(&members, fds, &wanted, allowed)?,
        Way::Iommufd(fds) => through_iommufd(&members, fds, &wanted, allowed)?,
    };
    finish(&members, opened)
}

fn finish(members: &Members, opened: Opened) -> Result<OpenDevices, OpenError> {
    let (descriptors, folders) = opened.needs().map_err(OpenError::step(
        "copy a file descriptor, for a server",
        members.first,
    ))?;
    let devices = opened.devices.into_iter().map(Device::Open);
    Ok(OpenDevices {
        backends: backends(devices, opened.iommu, &opened.authority),
        descriptors,
        folders,
    })
}

/// As `open`, for one device with one client. With a group the device is left to be opened, and its client can be served already.
pub fn open_early(
    mut wanted: WantedDevice,
    options: OpenOptions,
) -> Result<(OpenDevices, Option<Unopened>), OpenError> {
    let allowed = options.allowed();
    let (members, way) = choose(slice::from_mut(&mut wanted), options.iommu, options.given)?;
    let fds = match way {
        Way::Type1(fds) => fds,
        Way::Iommufd(fds) => {
            let opened = through_iommufd(&members, fds, &[wanted], allowed)?;
            return Ok((finish(&members, opened)?, None));
        }
    };
    let Begun {
        device,
        unopened,
        type1,
        group,
        descriptors,
    } = early::begin(members, fds, wanted, allowed)?;
    let authority: Arc<dyn Any + Send + Sync> = group;
    let open = OpenDevices {
        backends: backends([device], Box::new(type1), &authority),
        descriptors,
        folders: Vec::new(),
    };
    Ok((open, Some(unopened)))
}

fn backends(
    devices: impl IntoIterator<Item = Device>,
    iommu: Box<dyn Iommu>,
    authority: &Arc<dyn Any + Send + Sync>,
) -> Vec<Box<dyn Backend>> {
    let dma = Arc::new(Mutex::new(DmaSpace::new(iommu)));
    let devices = devices.into_iter().zip((0..).map(SessionId));
    let backends = devices.map(|(device, session)| {
        let dma = Arc::clone(&dma);
        Box::new(VfioBackend {
            device,
            session,
            dma,
            _authority: Arc::clone(authority),
        }) as Box<dyn Backend>
    });
    backends.collect()
}

/// A device of the group, for one session at a time.
#[derive(Debug)]
struct VfioBackend {
    // Fields drop in this order: the device closes before the group or the iommufd does.
    device: Device,
    session: SessionId,
    dma: Arc<Mutex<DmaSpace<Box<dyn Iommu>>>>,
    _authority: Arc<dyn Any + Send + Sync>,
}

impl VfioBackend {
    fn dma(&self) -> MutexGuard<'_, DmaSpace<Box<dyn Iommu>>> {
        // A panic in another session's thread aborts the process in releases; in tests the table is still sound,
        // since each call leaves it so before it can panic.
        self.dma.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for VfioBackend {
    fn opened(&mut self) -> Result<(), Errno> {
        self.device.wait()
    }

    fn describe(&self) -> &DeviceDescription {
        self.device.description()
    }

    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        self.device.open()?.read(region, offset, data)
    }

    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        _dma: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.device.open()?.write(region, offset, data)
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        self.device.open()?.set_irqs(request)
    }

    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.dma().map(self.session, map)
    }

    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.dma().unmap(self.session, range)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.device.open()?.reset()
    }

    fn client_gone(&mut self) -> Result<(), Errno> {
        // 1. The device starts no transfer and raises no interrupt any more. One that never opened did not begin.
        let opened = self.device.wait();
        let stopped = opened.and_then(|()| self.device.open()?.stop());
        // 2. It reaches no memory of this client any more.
        let unmapped = self.dma().unmap_all(self.session);
        // 3. It is reset, and nothing that the client wrote is left in it; or it has no other client.
        let renewed = opened.and_then(|()| self.device.open()?.renew());
        stopped.and(unmapped).and(renewed)
    }
}
