//! Start-up and shutdown of the process, as numbered steps.
//!
//! Not here: the threads that serve (`serving`), what a session does (`server/`), how devices are opened (`backends/`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::limits;
use rustix::fs::FileType;
use sandbox::enter::{self, EnterError, Sandbox};
use sandbox::profile::{Mode, Start};
use sandbox::roles::vfio::{self, VfioDescriptors};
use sandbox::roles::{Calls, Folder, Need};

use crate::backend::Backend;
use crate::backends::test::{TestDevice, TestDeviceOptions};
use crate::backends::vfio::{GivenFds, OpenError, OpenOptions, WantedDevice};
use crate::cli::{Command, Devices, Endpoint, ProcessArgs, ServedDevice, VfioArgs};
use crate::ready::ReadyLine;
use crate::server::listener::{ListenError, Listener, SocketFile};
use crate::server::{Clients, ServeConfig, ServeError, Shutdown, Source};
use crate::serving::Serving;

/// Why the process did not start, or did not end well. The text and its sources make one line.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An inherited descriptor cannot be used.
    #[error("{option} {number}")]
    Inherited {
        /// The option that named it.
        option: &'static str,
        /// Its number.
        number: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The sandbox would hide who is to be served.
    #[error(
        "--allow-uid, --allow-gid: without privilege the sandbox is a user namespace, in which other users cannot be told apart: start as root"
    )]
    UnknownClients,
    /// A socket cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The PCI devices cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The test device cannot be made.
    #[error("make the test device")]
    TestDevice(#[source] io::Error),
    /// Signals, threads or eventfds cannot be set up.
    #[error("{step}")]
    SetUp {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The sandbox cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] EnterError),
    /// A device could not be served any more.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// One device and where its clients come from.
struct Served {
    config: ServeConfig,
    backend: Box<dyn Backend>,
    source: Source,
    file: Option<SocketFile>,
}

/// Does what the command line says. `ready` gets its line at step 7, or never if there is an error.
pub fn run(command: Command, ready: &mut Option<ReadyLine>) -> Result<(), RunError> {
    // 1. Block the signals that end the process before there is a second thread: all threads inherit that.
    let signals = block_signals().map_err(|source| set_up("block SIGTERM and SIGINT", source))?;
    // 2. Open the devices. Nothing of this listens to a client yet.
    let clients = clients(&command.process, &command.devices)?;
    let opened = open(command.devices, &clients)?;
    // 3. Bind the sockets: a client that connects from here on waits in the backlog.
    let mut served = Vec::new();
    for (config, backend, endpoint) in opened.devices {
        let (source, file) = endpoint.listen()?;
        served.push(Served {
            config,
            backend,
            source,
            file,
        });
    }
    // 4. Give up the host: from here on there is no file system, no network and no privilege.
    let sandbox = confine(opened.confinement, &served)?;
    // 5. One thread per device, all held back: none can be started once system calls are filtered.
    let shutdown = Shutdown::new().map_err(|source| set_up("make the shutdown eventfd", source))?;
    let mut serving = Serving::new(shutdown).map_err(|source| set_up("make an eventfd", source))?;
    let mut files = Vec::new();
    for device in served {
        files.push(device.file);
        serving
            .start(device.config, device.backend, device.source)
            .map_err(|source| set_up("start a thread", source))?;
    }
    // 6. Filter system calls, for all threads, and let them serve: here the first byte of a client is read.
    serving.wait_until_held();
    let enforced = sandbox.map(|(sandbox, calls)| sandbox.close(&calls));
    let enforced = enforced.transpose()?;
    if let Some(enforced) = enforced {
        tracing::info!(%enforced, "Sandbox");
    }
    serving.release();
    // 7. Tell whoever waits, and wait until all have ended or a signal comes.
    if let Some(line) = ready.take() {
        line.ready();
    }
    serving.wait(&signals);
    // 8. Take the sockets away first, so that nobody connects to a process that is ending; then end the sessions.
    //    One that is held up by its device for longer than a reset may take is left behind.
    drop(files);
    Ok(serving.stop(limits::RESET_DEADLINE)?)
}

/// Who is served, in the numbers that hold before the sandbox is entered.
fn clients(process: &ProcessArgs, devices: &Devices) -> Result<Clients, RunError> {
    let named = !(process.allow_uid.is_empty() && process.allow_gid.is_empty());
    let own_user_namespace = match devices {
        Devices::Vfio { options, .. } => {
            let leaves = matches!(options.sandbox.sandbox, Mode::On | Mode::BestEffort);
            leaves && !sandbox::mechanisms::capabilities::privileged()
        }
        Devices::Test { .. } => false,
    };
    if named && own_user_namespace {
        return Err(RunError::UnknownClients);
    }
    let clients = Clients::new(&process.allow_uid, &process.allow_gid);
    if clients.exclude_own_user() {
        tracing::warn!(
            "This process runs as the overflow user, whom any user may look like: it is not served"
        );
    }
    Ok(clients)
}

/// What a process is confined to.
struct Confinement {
    start: Start,
    max_locked_memory: Option<u64>,
    descriptors: VfioDescriptors,
    folders: Vec<Folder>,
}

/// Leaves the host.
fn confine(
    confinement: Option<Confinement>,
    served: &[Served],
) -> Result<Option<(Sandbox, Calls)>, RunError> {
    // The software test device is not confined: it has nothing to lose.
    let Some(confinement) = confinement else {
        return Ok(None);
    };
    if confinement.start.mode == Mode::Off {
        tracing::warn!("The sandbox is off: whoever takes over this process has all it has");
    }
    let log = rustix::fs::fstat(io::stderr())
        .map_err(|errno| set_up("look at standard error", errno.into()))?;
    let log_to_file = FileType::from_raw_mode(log.st_mode) == FileType::RegularFile;
    let mut folders = confinement.folders;
    for file in served.iter().filter_map(|device| device.file.as_ref()) {
        let copy = file.folder().try_clone_to_owned();
        folders.push(Folder {
            fd: copy.map_err(|source| set_up("copy a descriptor", source))?,
            number: file.folder().as_raw_fd(),
            need: Need::RemoveFile,
            why: "listener: remove the socket's file",
        });
    }
    let role = vfio::role(
        &confinement.descriptors,
        confinement.max_locked_memory,
        log_to_file,
        folders,
    );
    let sandbox = enter::leave_host(&role.power, confinement.start)?;
    Ok(Some((sandbox, role.calls)))
}

/// Devices that are open, how each is served, and where.
struct Opened {
    devices: Vec<(ServeConfig, Box<dyn Backend>, Place)>,
    confinement: Option<Confinement>,
}

/// Where a device is served: a path to bind, or an inherited socket.
enum Place {
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

    fn listen(self) -> Result<(Source, Option<SocketFile>), RunError> {
        match self {
            Place::Path(path) => {
                let (listener, file) = Listener::bind(&path)?;
                Ok((Source::Listening(listener), Some(file)))
            }
            Place::Inherited(source) => Ok((source, None)),
        }
    }
}

fn open(devices: Devices, clients: &Clients) -> Result<Opened, RunError> {
    match devices {
        Devices::Test {
            endpoint,
            message_dma,
        } => open_test_device(endpoint, message_dma, clients),
        Devices::Vfio { devices, options } => open_vfio_devices(devices, options, clients),
    }
}

fn open_test_device(
    endpoint: Endpoint,
    message_dma: bool,
    clients: &Clients,
) -> Result<Opened, RunError> {
    let max_dma_maps = usize::try_from(limits::MAX_DMA_MAPS).unwrap_or(usize::MAX);
    let options = TestDeviceOptions {
        message_dma,
        max_dma_maps,
    };
    let device = TestDevice::new(options).map_err(|errno| RunError::TestDevice(errno.into()))?;
    let config = ServeConfig::new("test".to_owned(), true, clients.clone());
    Ok(Opened {
        devices: vec![(config, Box::new(device), Place::take(endpoint)?)],
        confinement: None,
    })
}

fn open_vfio_devices(
    devices: Vec<ServedDevice>,
    options: VfioArgs,
    clients: &Clients,
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
        // The hardware does the DMA, so the second socket stays silent. It is there all the same: a client that has it
        // need not look at the first one whenever an answer comes.
        let config = ServeConfig::new(device.host.to_string(), true, clients.clone());
        places.push((config, place));
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
    Ok(Opened {
        devices: devices
            .map(|((config, place), backend)| (config, backend, place))
            .collect(),
        confinement: Some(Confinement {
            start: options.sandbox.into(),
            max_locked_memory: options.max_locked_memory,
            descriptors: opened.descriptors,
            folders: opened.folders,
        }),
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

fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

fn set_up(step: &'static str, source: io::Error) -> RunError {
    RunError::SetUp { step, source }
}
