//! Start-up and shutdown of the process, as numbered steps.
//!
//! Not here: the threads that serve (`serving`), what a session does (`server/`), how devices are opened (`backends/`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::limits;
use rustix::fs::FileType;
use sandbox::enter::{self, EnterError, Sandbox};
use sandbox::mechanisms::{MechanismError, fds};
use sandbox::profile::{Mode, Start};
use sandbox::roles::vfio::{self, VfioDescriptors};
use sandbox::roles::{Calls, Folder};

use crate::backend::Backend;
use crate::backends::test::{TestDevice, TestDeviceOptions};
use crate::backends::vfio::{OpenError, OpenOptions, WantedDevice};
use crate::cli::{Command, Devices, Endpoint, ProcessArgs, ServedDevice};
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
    /// What is open cannot be found out.
    #[error(transparent)]
    Descriptors(#[from] MechanismError),
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
    let confinement = Confinement::of(&command.devices);
    let clients = clients(&command.process, confinement)?;
    let devices = open(command.devices, &clients)?;
    // 3. Bind or adopt the sockets: a client that connects from here on waits in the backlog.
    let mut served = Vec::new();
    for (config, backend, endpoint) in devices {
        let (source, file) = take_endpoint(endpoint)?;
        served.push(Served {
            config,
            backend,
            source,
            file,
        });
    }
    // 4. Give up the host: from here on there is no file system, no network and no privilege.
    let sandbox = confine(confinement, &served)?;
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
fn clients(process: &ProcessArgs, confinement: Option<Confinement>) -> Result<Clients, RunError> {
    let named = !(process.allow_uid.is_empty() && process.allow_gid.is_empty());
    let own_user_namespace = confinement.is_some_and(|confinement| {
        let leaves = matches!(confinement.start.mode, Mode::On | Mode::BestEffort);
        leaves && !sandbox::mechanisms::capabilities::privileged()
    });
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

/// How a process is confined. The software test device is not: it has nothing to lose.
#[derive(Debug, Clone, Copy)]
struct Confinement {
    start: Start,
    max_locked_memory: Option<u64>,
}

impl Confinement {
    fn of(devices: &Devices) -> Option<Confinement> {
        match devices {
            Devices::Vfio { options, .. } => Some(Confinement {
                start: options.sandbox.clone().into(),
                max_locked_memory: options.max_locked_memory,
            }),
            Devices::Test { .. } => None,
        }
    }
}

/// Leaves the host. What the role allows on which descriptors is read from /proc, for the last time.
fn confine(
    confinement: Option<Confinement>,
    served: &[Served],
) -> Result<Option<(Sandbox, Calls)>, RunError> {
    let Some(confinement) = confinement else {
        return Ok(None);
    };
    if confinement.start.mode == Mode::Off {
        tracing::warn!("The sandbox is off: whoever takes over this process has all it has");
    }
    let open = fds::open_descriptors()?;
    let numbers = |is: fn(&Path) -> bool| {
        open.iter()
            .filter(|(_, target)| is(target))
            .map(|(number, _)| *number)
            .collect()
    };
    let log = rustix::fs::fstat(io::stderr())
        .map_err(|errno| set_up("look at standard error", errno.into()))?;
    let descriptors = VfioDescriptors {
        log_to_file: FileType::from_raw_mode(log.st_mode) == FileType::RegularFile,
        containers: numbers(|target| target == Path::new("/dev/vfio/vfio")),
        groups: numbers(|target| {
            target.parent() == Some(Path::new("/dev/vfio")) && !target.ends_with("vfio")
        }),
    };
    let folders = served
        .iter()
        .filter_map(|device| device.file.as_ref())
        .map(|file| {
            let fd = file
                .folder()
                .try_clone_to_owned()
                .map_err(|source| set_up("copy a descriptor", source))?;
            Ok(Folder {
                fd,
                number: file.folder().as_raw_fd(),
                why: "listener: remove the socket's file",
            })
        });
    let folders = folders.collect::<Result<Vec<_>, RunError>>()?;
    let devices = u64::try_from(served.len()).unwrap_or(u64::MAX);
    let role = vfio::role(
        &descriptors,
        devices,
        confinement.max_locked_memory,
        folders,
    );
    let sandbox = enter::leave_host(&role.power, confinement.start)?;
    Ok(Some((sandbox, role.calls)))
}

/// A device that is open, how it is served, and where.
type Opened = (ServeConfig, Box<dyn Backend>, Endpoint);

fn open(devices: Devices, clients: &Clients) -> Result<Vec<Opened>, RunError> {
    match devices {
        Devices::Test {
            endpoint,
            message_dma,
        } => {
            let max_dma_maps = usize::try_from(limits::MAX_DMA_MAPS).unwrap_or(usize::MAX);
            let device = TestDevice::new(TestDeviceOptions {
                message_dma,
                max_dma_maps,
            })
            .map_err(|errno| RunError::TestDevice(errno.into()))?;
            Ok(vec![(
                ServeConfig::new("test".to_owned(), true, clients.clone()),
                Box::new(device),
                endpoint,
            )])
        }
        Devices::Vfio { devices, options } => {
            let options = OpenOptions {
                allow_no_reset: options.allow_no_reset,
                container_fd: adopt_optional("--container-fd", options.container_fd)?,
                group_fd: adopt_optional("--group-fd", options.group_fd)?,
            };
            let wanted: Vec<_> = devices.iter().map(wanted).collect();
            let backends = crate::backends::vfio::open(&wanted, &options)?;
            // The hardware does the DMA, so the second socket stays silent. It is there all the same: a client that has it
            // need not look at the first one whenever an answer comes.
            let opened = devices.into_iter().zip(backends).map(|(device, backend)| {
                let config = ServeConfig::new(device.host.to_string(), true, clients.clone());
                (config, backend, device.endpoint)
            });
            Ok(opened.collect())
        }
    }
}

fn wanted(device: &ServedDevice) -> WantedDevice {
    WantedDevice {
        address: device.host,
        bar_mmap: device.bar_mmap,
    }
}

fn take_endpoint(endpoint: Endpoint) -> Result<(Source, Option<SocketFile>), RunError> {
    match endpoint {
        Endpoint::Path(path) => {
            let (listener, file) = Listener::bind(&path)?;
            Ok((Source::Listening(listener), Some(file)))
        }
        Endpoint::Fd(number) => {
            let inherited = |source| RunError::Inherited {
                option: "--socket-fd",
                number,
                source,
            };
            let source = adopt("--socket-fd", number)
                .and_then(|socket| Source::from_inherited(socket).map_err(inherited))?;
            Ok((source, None))
        }
    }
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
