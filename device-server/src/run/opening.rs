//! How the devices of the command line become backends that can be served: what is opened before the process leaves the host.
//!
//! Not here: what opening a PCI device takes (`backends/vfio`).

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use protocol::limits;
use protocol::supervisor::{Order, OrderFds};
use sandbox::roles::vfio::VfioDescriptors;
use telemetry::device::UNKNOWN;

use crate::backend::Backend;
use crate::backends::test::{TestDevice, TestDeviceOptions};
use crate::backends::vfio::{
    GivenFds, IommuBackend, OpenError, OpenOptions, Unopened, WantedDevice,
};
use crate::cli::{Devices, Endpoint, ServedDevice, VfioArgs};
use crate::metrics::{Metered, Metrics};
use crate::server::listener::{Listener, SocketFile};
use crate::server::{Clients, ServeConfig, Source};

use super::{ConfinedDevices, Confinement, RunError, Served};

/// Devices that are open, how each is served, and where.
pub(super) struct Opened {
    pub(super) devices: Vec<(ServeConfig, Box<dyn Backend>, Place)>,
    pub(super) confinement: Confinement,
}

/// Where a device is served: a path to bind, or an inherited socket.
pub(super) enum Place {
    Path(PathBuf),
    Inherited(Source),
}

impl Place {
    fn take(endpoint: Endpoint) -> Result<Place, RunError> {
        let number = match endpoint {
            Endpoint::Path(path) => return Ok(Place::Path(path)),
            Endpoint::Fd(number) => number,
        };
        let inherited = |source| RunError::Inherited {
            option: "--socket-fd",
            number,
            source,
        };
        let socket = adopt("--socket-fd", number)?;
        let source = Source::from_inherited(socket).map_err(inherited)?;
        Ok(Place::Inherited(source))
    }

    /// Whether a second client may come.
    fn takes_many_clients(&self) -> bool {
        !matches!(self, Place::Inherited(Source::Connected(_)))
    }

    pub(super) fn listen(self) -> Result<(Source, Option<SocketFile>), RunError> {
        match self {
            Place::Path(path) => {
                let (listener, file) = Listener::bind(&path)?;
                Ok((Source::Listening(listener), Some(file)))
            }
            Place::Inherited(source) => Ok((source, None)),
        }
    }
}

/// Opens them.
pub(super) fn open(
    devices: Devices,
    clients: &Clients,
    metrics: Option<&Metrics>,
) -> Result<Opened, RunError> {
    match devices {
        Devices::Test {
            id,
            endpoint,
            message_dma,
            sandbox,
        } => {
            let max_dma_maps = usize::try_from(limits::MAX_DMA_MAPS).unwrap_or(usize::MAX);
            let device = TestDevice::new(TestDeviceOptions {
                message_dma,
                max_dma_maps,
            })
            .map_err(|errno| RunError::TestDevice(errno.into()))?;
            let names = (id, UNKNOWN.to_owned());
            let (config, backend) = counted(names, Box::new(device), clients, metrics);
            Ok(Opened {
                devices: vec![(config, backend, Place::take(endpoint)?)],
                confinement: Confinement {
                    start: sandbox.into(),
                    devices: ConfinedDevices::Software,
                    folders: Vec::new(),
                },
            })
        }
        Devices::Vfio { devices, options } => open_vfio_devices(devices, options, clients, metrics),
    }
}

/// The device with these names; its work is counted where somebody can ask for the numbers, since counting costs a twentieth of an
/// access. Where the hardware does the DMA, the second socket stays silent. It is there all
/// the same: a client that has it need not look at the first one whenever an answer comes.
fn counted(
    names: (String, String),
    backend: Box<dyn Backend>,
    clients: &Clients,
    metrics: Option<&Metrics>,
) -> (ServeConfig, Box<dyn Backend>) {
    let metrics = metrics.map(|metrics| metrics.device(&names.0, &names.1));
    let backend = match &metrics {
        Some(metrics) => Box::new(Metered::new(backend, metrics.clone())),
        None => backend,
    };
    (
        ServeConfig::new(names, true, clients.clone(), metrics),
        backend,
    )
}

fn open_vfio_devices(
    devices: Vec<ServedDevice>,
    options: VfioArgs,
    clients: &Clients,
    metrics: Option<&Metrics>,
) -> Result<Opened, RunError> {
    let (mut wanted, mut places) = (Vec::new(), Vec::new());
    for device in devices {
        let place = Place::take(device.endpoint)?;
        wanted.push(WantedDevice {
            address: device.host,
            bar_mmap: device.bar_mmap,
            renewed: place.takes_many_clients(),
            node: adopt_optional("--device-fd", device.device_fd)?,
        });
        places.push(((device.id, device.host.to_string()), place));
    }
    let opened = crate::backends::vfio::open(
        wanted,
        OpenOptions {
            allow_no_reset: options.allow_no_reset,
            allow_noncoherent: options.allow_noncoherent,
            iommu: options.iommu_backend,
            given: GivenFds {
                container: adopt_optional("--container-fd", options.container_fd)?,
                group: adopt_optional("--group-fd", options.group_fd)?,
                iommufd: adopt_optional("--iommufd-fd", options.iommufd_fd)?,
            },
        },
    )?;
    let devices = places.into_iter().zip(opened.backends);
    let devices = devices.map(|((names, place), backend)| {
        let (config, backend) = counted(names, backend, clients, metrics);
        (config, backend, place)
    });
    Ok(Opened {
        devices: devices.collect(),
        confinement: Confinement {
            start: options.sandbox.into(),
            devices: ConfinedDevices::Vfio {
                max_locked_memory: options.max_locked_memory,
                descriptors: opened.descriptors,
            },
            folders: opened.folders,
        },
    })
}

/// The device of an order.
pub(super) struct Ordered {
    pub(super) served: Served,
    /// Which descriptors system calls are about from now on.
    pub(super) descriptors: VfioDescriptors,
    /// What is left to be done once its client is served.
    pub(super) unopened: Option<Unopened>,
}

/// Opens the device of an order, with nothing but the descriptors that came with it; or prepares for that, where the order says so.
pub(super) fn open_ordered(
    order: Order,
    fds: OrderFds<OwnedFd>,
    iommu: IommuBackend,
    clients: &Clients,
) -> Result<Ordered, RunError> {
    let (container, group) = fds.group.unzip();
    let (iommufd, node) = fds.iommufd.unzip();
    let wanted = WantedDevice {
        address: order.host,
        bar_mmap: order.bar_mmap,
        renewed: false,
        node,
    };
    let options = OpenOptions {
        allow_no_reset: order.allow_no_reset,
        allow_noncoherent: order.allow_noncoherent,
        iommu,
        given: GivenFds {
            container,
            group,
            iommufd,
        },
    };
    let (opened, unopened) = if order.early {
        crate::backends::vfio::open_early(wanted, options)?
    } else {
        (crate::backends::vfio::open(vec![wanted], options)?, None)
    };
    let backend = opened.backends.into_iter().next();
    let backend = backend.ok_or(OpenError::NoDevices)?;
    let names = (order.id, order.host.to_string());
    let (config, backend) = counted(names, backend, clients, None);
    let served = Served {
        config,
        backend,
        source: Source::Connected(fds.socket),
    };
    Ok(Ordered {
        served,
        descriptors: opened.descriptors,
        unopened,
    })
}

/// Takes over an inherited descriptor that the command line names.
pub fn adopt(option: &'static str, number: i32) -> Result<OwnedFd, RunError> {
    sandbox::sys::adopt_fd(number).map_err(|source| RunError::Inherited {
        option,
        number,
        source,
    })
}

fn adopt_optional(option: &'static str, number: Option<i32>) -> Result<Option<OwnedFd>, RunError> {
    number.map(|number| adopt(option, number)).transpose()
}
