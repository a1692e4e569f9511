//! One VFIO device: described, read and written, given from one client to the next.
//!
//! Between two clients the device is closed and opened again (`renewal`). Closing makes the kernel disable all
//! interrupts, reset the device and restore its config space; opening resets it again and starts a fresh virtual config
//! space, and GET_INFO says whether that reset worked. So nothing that a client wrote is left, with one exception that is
//! found out: a client that still maps a BAR keeps the device open, and then nothing is reset. A device node cannot be bound
//! then; with a group, a mark in the interrupt line register, which lives in the virtual config space only, shows whether the
//! open file was the last one. Until it was, or `MAPPINGS_DEADLINE` is over, nobody else is served.
//! While it is closed a device node belongs to nobody: another process that may open it could take it. A group stays open.
//! A device that has one client only is stopped after it, and closed when the process ends, a moment later.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::{Errno, IoFds, PciAddress, RegionFlags, RegionIndex, SetIrqs};
use vfio_bindings::bindings::vfio::{VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET};

use super::capabilities::ConfigCopy;
use super::config::ConfigFilter;
use super::error::OpenError;
use super::irqs::{self, Interrupts};
use super::members::Members;
use super::regions::{KernelRegion, mappable_areas};
use super::renewal::Renewal;
use super::spec::INTERRUPT_LINE;
use super::{WantedDevice, ioctls, reset};
use crate::backend::{DeviceDescription, Region};
use crate::host::device::reset_methods;

/// How long a client that has gone may still map a BAR.
const MAPPINGS_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks whether it still does.
const MAPPINGS_PAUSE: Duration = Duration::from_millis(20);
/// Largest config space, in bytes.
const CONFIG_BYTES: u64 = 4096;

/// An open device.
#[derive(Debug)]
pub(super) struct VfioDevice {
    address: PciAddress,
    /// Its number never changes.
    fd: OwnedFd,
    renewal: Renewal,
    description: DeviceDescription,
    filter: ConfigFilter,
    interrupts: Interrupts,
}

impl VfioDevice {
    /// Looks at a device that has just been opened, which has reset it. Without a reset it is refused unless
    /// `allow_no_reset`.
    pub(super) fn new(
        members: &Members,
        wanted: &WantedDevice,
        fd: OwnedFd,
        renewal: Renewal,
        allow_no_reset: bool,
    ) -> Result<VfioDevice, OpenError> {
        let address = wanted.address;
        let info = ioctls::device_info(fd.as_fd())
            .map_err(OpenError::step("get the device info", address))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(OpenError::NotPci(address));
        }
        let reset = info.flags & VFIO_DEVICE_FLAGS_RESET != 0;
        if !reset && !allow_no_reset {
            return Err(OpenError::NoReset {
                address,
                methods: members
                    .host()
                    .and_then(|(sysfs, _)| reset_methods(sysfs, address)),
            });
        }
        let (regions, config) = describe_regions(fd.as_fd(), wanted.bar_mmap)
            .map_err(OpenError::step("get the regions", address))?;
        let irqs =
            irqs::query(fd.as_fd()).map_err(OpenError::step("get the interrupts", address))?;
        let mut device = VfioDevice {
            address,
            fd,
            renewal,
            interrupts: Interrupts::new(&irqs),
            description: DeviceDescription {
                reset,
                regions,
                irqs,
            },
            filter: ConfigFilter::new(config),
        };
        device.lend_fd().map_err(|errno| OpenError::Step {
            step: "duplicate the file descriptor",
            address,
            source: errno.into(),
        })?;
        tracing::info!(pci = %address, reset, "device is open");
        Ok(device)
    }

    /// What the device looks like.
    pub(super) fn description(&self) -> &DeviceDescription {
        &self.description
    }

    /// Reads from a region with one access, or as few as the kernel takes.
    pub(super) fn read(
        &self,
        index: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        read_all(self.fd.as_fd(), self.place(index, offset)?, data)
    }

    /// Writes to a region with one access, or as few as the kernel takes; to config space what the filter lets pass.
    pub(super) fn write(&self, index: RegionIndex, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if index != RegionIndex::CONFIG {
            return write_all(self.fd.as_fd(), self.place(index, offset)?, data);
        }
        self.filter.pass(offset, data).iter().try_for_each(|write| {
            write_all(
                self.fd.as_fd(),
                self.place(index, write.offset)?,
                &write.data,
            )
        })
    }

    /// Binds, unbinds, masks, unmasks or triggers interrupts.
    pub(super) fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        self.interrupts.set(&mut self.fd.as_fd(), request)
    }

    /// Resets the device; DMA and bus mastering are off afterwards, interrupts stay bound.
    pub(super) fn reset(&self) -> Result<(), Errno> {
        reset::reset(self.fd.as_fd(), self.place(RegionIndex::CONFIG, 0)?)
    }

    /// Stops what the client set going: bus mastering and interrupts.
    pub(super) fn stop(&mut self) -> Result<(), Errno> {
        let stopped = reset::stop_dma(self.fd.as_fd(), self.place(RegionIndex::CONFIG, 0)?);
        stopped.and(self.interrupts.disable_all(&mut self.fd.as_fd()))
    }

    /// Closes the device and opens it for the next client, if there may be one. An error means that it must not be served
    /// any more.
    pub(super) fn renew(&mut self) -> Result<(), Errno> {
        if matches!(self.renewal, Renewal::Never) {
            return Ok(());
        }
        let line = self.place(
            RegionIndex::CONFIG,
            u64::try_from(INTERRUPT_LINE).map_err(|_| Errno::INVAL)?,
        )?;
        let mark = self.mark(line)?;
        for region in &mut self.description.regions {
            region.mmap_fd = None;
        }
        self.interrupts.forget();
        self.reopen(line, mark)?;
        let info = ioctls::device_info(self.fd.as_fd())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if self.description.reset && info.flags & VFIO_DEVICE_FLAGS_RESET == 0 {
            tracing::error!(pci = %self.address, "the reset between two clients failed");
            return Err(Errno::IO);
        }
        self.lend_fd()
    }

    /// Until the byte at `line` is not `mark` any more: then nobody else has the device open.
    fn reopen(&mut self, line: u64, mark: u8) -> Result<(), Errno> {
        let failed = |address: PciAddress| {
            move |error: io::Error| {
                tracing::error!(pci = %address, %error, "Open the device for the next client");
                Errno::from_io_error(&error).unwrap_or(Errno::IO)
            }
        };
        let deadline = Instant::now()
            .checked_add(MAPPINGS_DEADLINE)
            .ok_or(Errno::IO)?;
        loop {
            let address = self.address;
            self.renewal.park(&mut self.fd).map_err(failed(address))?;
            if self.renewal.place(&mut self.fd).map_err(failed(address))? {
                let mut found = [0];
                read_all(self.fd.as_fd(), line, &mut found)?;
                if found != [mark] {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                tracing::error!(pci = %address, "a client that has gone still maps a BAR, or another process has the device");
                return Err(Errno::BUSY);
            }
            sleep(MAPPINGS_PAUSE);
        }
    }

    /// The number of its descriptor.
    pub(super) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Where it is opened from for another client.
    pub(super) fn renewal(&self) -> &Renewal {
        &self.renewal
    }

    /// Puts a value into the virtual interrupt line register that a fresh one does not have.
    fn mark(&self, line: u64) -> Result<u8, Errno> {
        let fresh = self.filter.opened_with(INTERRUPT_LINE);
        let mark = !fresh;
        write_all(self.fd.as_fd(), line, &[mark])?;
        Ok(mark)
    }

    /// Gives each region that a client may mmap a duplicate of the device fd.
    fn lend_fd(&mut self) -> Result<(), Errno> {
        for region in &mut self.description.regions {
            region.mmap_fd = if region.areas.is_empty() {
                None
            } else {
                Some(rustix::io::fcntl_dupfd_cloexec(&self.fd, 3)?)
            };
        }
        Ok(())
    }

    /// Where a byte of a region is in the device fd.
    fn place(&self, index: RegionIndex, offset: u64) -> Result<u64, Errno> {
        let region = self.description.region(index).ok_or(Errno::INVAL)?;
        region.mmap_offset.checked_add(offset).ok_or(Errno::INVAL)
    }
}

/// All regions, and a copy of config space. Without `bar_mmap` no region can be mapped, so none lends the device fd.
fn describe_regions(
    device: BorrowedFd<'_>,
    bar_mmap: bool,
) -> io::Result<(Vec<Region>, ConfigCopy)> {
    let config_region = KernelRegion::query(device, RegionIndex::CONFIG.0)?;
    let len = usize::try_from(config_region.size.min(CONFIG_BYTES)).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    read_all(device, config_region.offset, &mut bytes)?;
    let config = ConfigCopy::new(bytes);
    let msix = config.msix();
    let page = u64::try_from(rustix::param::page_size()).map_err(io::Error::other)?;
    let mut regions = Vec::new();
    for index in RegionIndex::BAR0.0..RegionIndex::VGA.0 {
        let kernel = KernelRegion::query(device, index)?;
        let mut flags = RegionFlags::empty();
        flags.set(RegionFlags::READ, kernel.readable);
        flags.set(RegionFlags::WRITE, kernel.writable);
        let areas = if bar_mmap && index < RegionIndex::ROM.0 {
            mappable_areas(index, &kernel, msix, page)
        } else {
            Vec::new()
        };
        regions.push(Region {
            size: kernel.size,
            flags,
            areas,
            mmap_fd: None,
            mmap_offset: kernel.offset,
            io_fds: IoFds::default(),
        });
    }
    // Legacy VGA ranges are the host's, whatever VFIO would give.
    regions.push(Region::absent());
    Ok((regions, config))
}

fn read_all(fd: BorrowedFd<'_>, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let done = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *rest, at))?;
        if done == 0 {
            return Err(Errno::IO);
        }
        rest = rest.get_mut(done..).ok_or(Errno::IO)?;
        at = at
            .checked_add(u64::try_from(done).map_err(|_| Errno::IO)?)
            .ok_or(Errno::IO)?;
    }
    Ok(())
}

fn write_all(fd: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let done = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, rest, at))?;
        if done == 0 {
            return Err(Errno::IO);
        }
        rest = rest.get(done..).ok_or(Errno::IO)?;
        at = at
            .checked_add(u64::try_from(done).map_err(|_| Errno::IO)?)
            .ok_or(Errno::IO)?;
    }
    Ok(())
}
