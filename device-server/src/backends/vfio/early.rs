//! A device whose client is served before it is open.
//!
//! Opening a device resets it, which takes the hardware 100 ms and more; meanwhile a client can agree on the protocol and have its
//! memory mapped. Only through a group: its container maps memory without an open device. The device is opened in the sandbox then, at
//! a number that is kept for it.
//! Whoever asks for this has seen that the device's DMA is off (`protocol::supervisor::Order::early`): transfers that somebody else
//! began would reach memory that is mapped before the reset.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use protocol::{Errno, limits};
use sandbox::roles::vfio::{IommuDescriptor, Renewal as RenewalDescriptor, VfioDescriptors};

use super::WantedDevice;
use super::coherency::{self, Accepted};
use super::device::VfioDevice;
use super::error::OpenError;
use super::group::{Group, GroupFds};
use super::members::Members;
use super::opening::{Allowed, Prepared, prepare};
use super::renewal::{Renewal, harmless, replace};
use super::type1::Type1;
use crate::backend::DeviceDescription;

/// What a device looks like that is not open.
static NOTHING: DeviceDescription = DeviceDescription {
    reset: false,
    regions: Vec::new(),
    irqs: Vec::new(),
};

/// A device that is open, or will be.
#[derive(Debug)]
pub(super) enum Device {
    /// Open.
    Open(VfioDevice),
    /// Comes from `Unopened::open`.
    Coming(Receiver<VfioDevice>),
}

/// A device that is still to be opened.
#[derive(Debug)]
pub struct Unopened {
    members: Members,
    wanted: WantedDevice,
    group: Arc<Group>,
    accepted: Accepted,
    no_reset: bool,
    /// Keeps its number.
    place: OwnedFd,
    taker: Sender<VfioDevice>,
}

/// Everything but the device.
pub(super) struct Begun {
    pub(super) device: Device,
    pub(super) unopened: Unopened,
    pub(super) type1: Type1,
    pub(super) group: Arc<Group>,
    pub(super) descriptors: VfioDescriptors,
}

/// Through the nodes of the group. The device may have one client only.
pub(super) fn begin(
    members: Members,
    fds: GroupFds,
    wanted: WantedDevice,
    allowed: Allowed,
) -> Result<Begun, OpenError> {
    let Prepared {
        group,
        coherency,
        type1,
    } = prepare(&members, fds)?;
    let accepted = coherency::check(wanted.address, coherency, allowed.noncoherent)?;
    let place = harmless().map_err(OpenError::step(
        "keep a number for the file descriptor",
        wanted.address,
    ))?;
    let descriptors = VfioDescriptors {
        devices: vec![place.as_raw_fd()],
        iommu: IommuDescriptor::Type1(type1.number()),
        renewal: RenewalDescriptor::Once(group.group().as_raw_fd()),
    };
    let (taker, coming) = channel();
    let unopened = Unopened {
        members,
        wanted,
        group: Arc::clone(&group),
        accepted,
        no_reset: allowed.no_reset,
        place,
        taker,
    };
    Ok(Begun {
        device: Device::Coming(coming),
        unopened,
        type1,
        group,
        descriptors,
    })
}

impl Unopened {
    /// Opens it, and gives it to whoever serves its client.
    pub fn open(self) -> Result<(), OpenError> {
        let (address, mut fd) = (self.wanted.address, self.place);
        let failed = || OpenError::step("open VFIO device", address);
        let opened = self.group.open_device(address).map_err(failed())?;
        replace(&mut fd, &opened).map_err(failed())?;
        // The device has one descriptor, as any.
        drop(opened);
        let device = VfioDevice::new(
            &self.members,
            &self.wanted,
            fd,
            Renewal::Never,
            self.no_reset,
        )?;
        self.accepted.log();
        // Fails if the client has gone already: then the process ends.
        let _taken = self.taker.send(device);
        Ok(())
    }
}

impl Device {
    /// Waits until it is open, as long as a reset may take.
    pub(super) fn wait(&mut self) -> Result<(), Errno> {
        let Device::Coming(coming) = self else {
            return Ok(());
        };
        let device = coming.recv_timeout(limits::RESET_DEADLINE);
        *self = Device::Open(device.map_err(|_| Errno::IO)?);
        Ok(())
    }

    /// The device, once it is open.
    pub(super) fn open(&mut self) -> Result<&mut VfioDevice, Errno> {
        match self {
            Device::Open(device) => Ok(device),
            Device::Coming(_) => Err(Errno::IO),
        }
    }

    /// What it looks like, once it is open.
    pub(super) fn description(&self) -> &DeviceDescription {
        match self {
            Device::Open(device) => device.description(),
            Device::Coming(_) => &NOTHING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_that_could_not_be_opened_is_an_error_and_looks_like_nothing() {
        let (taker, coming) = channel();
        let mut device = Device::Coming(coming);
        assert_eq!(
            device.open().map(drop),
            Err(Errno::IO),
            "it is not open yet"
        );
        drop(taker);
        assert_eq!(device.wait(), Err(Errno::IO));
        assert_eq!(device.wait(), Err(Errno::IO), "and stays one");
        assert_eq!(device.open().map(drop), Err(Errno::IO));
        let nothing = device.description();
        assert!(nothing.region(protocol::RegionIndex::BAR0).is_none());
        assert!(nothing.irq(protocol::IrqIndex::MSIX).is_none());
    }
}
