//! Start-up and shutdown of the process, as numbered steps.
//!
//! Not here: the threads that serve (`serving`), what a session does (`server/`), how devices are opened (`backends/`).

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::closing::is_full;
use protocol::limits;
use protocol::supervisor::OrderError;
use protocol::transport::ByteStream;
use rustix::fs::FileType;
use sandbox::enter::{self, EnterError, Sandbox};
use sandbox::mechanisms::seccomp::Filter;
use sandbox::profile::{Mode, Start};
use sandbox::roles::vfio::{self, VfioDescriptors};
use sandbox::roles::{Calls, Folder, Need, test_device};
use telemetry::device::UNKNOWN;
use telemetry::metrics::Exporter;
use telemetry::service::Notifier;

use crate::backend::Backend;
use crate::backends::test::MEMORY_BYTES;
use crate::backends::vfio::OpenError;
use crate::cli::{Command, Devices, ProcessArgs};
use crate::metrics::Metrics;
use crate::program_pages;
use crate::ready::ReadyLine;
use crate::server::listener::{ListenError, Listener, SocketFile};
use crate::server::{Clients, ServeConfig, ServeError, Shutdown, Source};
use crate::serving::{Held, Serving};

pub mod spare;
mod ahead;
mod opener;
mod opening;

use self::opener::Opening;
pub use opening::adopt;

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
    /// What came in place of an order.
    #[error("take the order of the supervisor")]
    Order(#[from] OrderError),
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
}

/// What its system calls are filtered with.
enum Filtering {
    /// The table that the filter is made of.
    ByTable(Calls),
    /// A filter that was made of that table before.
    Made(Filter),
}

/// A process that has left the host, with everything that it serves.
struct Confined {
    signals: SignalFd,
    sandbox: Sandbox,
    filtering: Filtering,
    served: Vec<Served>,
    /// One of these devices, if it is not open yet.
    opening: Option<Opening>,
    /// Threads that are there already.
    held: Option<Held>,
    exporter: Option<Exporter>,
    /// What is there as long as clients may connect.
    files: Vec<SocketFile>,
    manager: Notifier,
}

/// Does what the command line says. `ready` gets its line at step 8, or never if there is an error.
pub fn run(command: Command, ready: &mut Option<ReadyLine>) -> Result<(), RunError> {
    // 1. Block the signals that end the process before there is a second thread: all threads inherit that.
    let signals = block_signals().map_err(|source| set_up("block SIGTERM and SIGINT", source))?;
    let _devices = devices_span(&command.devices).entered();
    // 2. Open the devices. Nothing of this listens to a client yet.
    let mode = match &command.devices {
        Devices::Vfio { options, .. } => options.sandbox.sandbox,
        Devices::Test { sandbox, .. } => sandbox.sandbox,
    };
    let clients = clients(&command.process, mode)?;
    let metrics =
        (command.process.metrics.as_ref()).map(|path| (path.as_path(), Metrics::default()));
    let counters = metrics.as_ref().map(|(_, metrics)| metrics);
    let opened = opening::open(command.devices, &clients, counters)?;
    // 3. Bind the sockets: a client that connects from here on waits in the backlog.
    let mut files = Vec::new();
    let exporter = metrics
        .map(|(path, metrics)| exporter(path, metrics, &mut files))
        .transpose()?;
    let mut served = Vec::new();
    for (config, backend, endpoint) in opened.devices {
        let (source, file) = endpoint.listen()?;
        files.extend(file);
        served.push(Served {
            config,
            backend,
            source,
        });
    }
    let manager = Notifier::connect()
        .map_err(|source| set_up("reach the service manager (NOTIFY_SOCKET)", source))?;
    // 4. Give up the host: from here on there is no file system, no network and no privilege.
    let (sandbox, calls) = confine(opened.confinement, &files)?;
    let confined = Confined {
        signals,
        sandbox,
        filtering: Filtering::ByTable(calls),
        served,
        opening: None,
        held: None,
        exporter,
        files,
        manager,
    };
    confined.serve(ready)
}

impl Confined {
    /// Steps 5 to 9.
    fn serve(self, ready: &mut Option<ReadyLine>) -> Result<(), RunError> {
        // 5. One thread per device, and those that close for them, all held back: none can be started once system calls are filtered.
        let shutdown =
            Shutdown::new().map_err(|source| set_up("make the shutdown eventfd", source))?;
        let start = || Held::start(closing_threads(&self.served));
        let held = self.held.map_or_else(start, Ok);
        let held = held.map_err(|source| set_up("start a thread", source))?;
        let serving = Serving::new(shutdown, held);
        let mut serving = serving.map_err(|source| set_up("make an eventfd", source))?;
        let start_exporter = (self.exporter).map_or(Ok(()), |exporter| serving.export(exporter));
        start_exporter.map_err(|source| set_up("start a thread", source))?;
        for device in self.served {
            serving
                .start(device.config, device.backend, device.source)
                .map_err(|source| set_up("start a thread", source))?;
        }
        // 6. Filter system calls, for all threads, and let them serve: here the first byte of a client is read.
        serving.wait_until_held();
        let enforced = match self.filtering {
            Filtering::ByTable(calls) => self.sandbox.close(&calls),
            Filtering::Made(filter) => self.sandbox.close_with(&filter),
        }?;
        tracing::info!(%enforced, "Sandbox");
        serving.release();
        // 7. A device that is still being opened: its client is served meanwhile, as far as that goes, and whoever waits is told.
        if let Some(opening) = self.opening {
            if let Some(line) = ready {
                line.serving();
            }
            let opened = opening.wait();
            opened.map_err(|source| set_up("wait for the thread that opens", source))??;
        }
        // 8. Tell whoever waits, and wait until all have ended or a signal comes. What only the start needed is given back meanwhile.
        if let Some(line) = ready.take() {
            line.ready();
        }
        self.manager.ready();
        serving.wait(&self.signals, program_pages::let_go);
        // 9. Take the sockets away first, so that nobody connects to a process that is ending; then end the sessions.
        //    One that is held up by its device for longer than a reset may take is left behind.
        self.manager.stopping();
        drop(self.files);
        Ok(serving.stop(limits::RESET_DEADLINE)?)
    }
}

/// How many threads close what clients sent. Who has one client has to outlive no other.
fn closing_threads(served: &[Served]) -> usize {
    let listens = |served: &Served| matches!(served.source, Source::Listening(_));
    if served.iter().any(listens) {
        limits::CLOSING_THREADS
    } else {
        served.len()
    }
}

/// The span of what is not about one of the devices alone.
fn devices_span(devices: &Devices) -> tracing::Span {
    match devices {
        Devices::Test { id, .. } => telemetry::device::span(id, UNKNOWN),
        Devices::Vfio { devices, .. } => {
            let ids: Vec<_> = devices.iter().map(|device| device.id.clone()).collect();
            let hosts: Vec<_> = devices
                .iter()
                .map(|device| device.host.to_string())
                .collect();
            telemetry::device::span(&ids.join(","), &hosts.join(","))
        }
    }
}

/// Who is served, in the numbers that hold before the sandbox is entered.
fn clients(process: &ProcessArgs, mode: Mode) -> Result<Clients, RunError> {
    let named = !(process.allow_uid.is_empty() && process.allow_gid.is_empty());
    let leaves = matches!(mode, Mode::On | Mode::BestEffort);
    let own_user_namespace = leaves && !sandbox::mechanisms::capabilities::privileged();
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

/// The socket on which metrics can be read.
fn exporter(
    path: &Path,
    metrics: Metrics,
    files: &mut Vec<SocketFile>,
) -> Result<Exporter, RunError> {
    let (listener, file) = Listener::bind(path)?;
    files.push(file);
    let clients = telemetry::metrics::Clients {
        may_come: || !is_full(),
        adopt: |socket| Box::new(ByteStream::new(socket)),
    };
    Exporter::new(listener.into(), metrics.into_registry(), clients)
        .map_err(|source| set_up("prepare the metrics socket", source))
}

/// What a process is confined to.
struct Confinement {
    start: Start,
    devices: ConfinedDevices,
    folders: Vec<Folder>,
}

/// Whose table holds.
enum ConfinedDevices {
    /// PCI devices.
    Vfio {
        max_locked_memory: Option<u64>,
        descriptors: VfioDescriptors,
    },
    /// The test device.
    Software,
}

/// Leaves the host.
fn confine(confinement: Confinement, files: &[SocketFile]) -> Result<(Sandbox, Calls), RunError> {
    warn_if_off(confinement.start);
    let log_to_file = log_to_file()?;
    let mut folders = confinement.folders;
    for file in files {
        let copy = file.folder().try_clone_to_owned();
        folders.push(Folder {
            fd: copy.map_err(|source| set_up("copy a descriptor", source))?,
            number: file.folder().as_raw_fd(),
            need: Need::RemoveFile,
            why: "listener: remove the socket's file",
        });
    }
    let role = match &confinement.devices {
        ConfinedDevices::Vfio {
            max_locked_memory,
            descriptors,
        } => vfio::role(descriptors, *max_locked_memory, log_to_file, folders),
        ConfinedDevices::Software => test_device::role(MEMORY_BYTES, log_to_file, folders),
    };
    let sandbox = enter::leave_host(&role.power, confinement.start)?;
    Ok((sandbox, role.calls))
}

fn warn_if_off(start: Start) {
    if start.mode == Mode::Off {
        tracing::warn!("The sandbox is off: whoever takes over this process has all it has");
    }
}

/// Whether standard error is a regular file.
fn log_to_file() -> Result<bool, RunError> {
    let log = rustix::fs::fstat(io::stderr())
        .map_err(|errno| set_up("look at standard error", errno.into()))?;
    Ok(FileType::from_raw_mode(log.st_mode) == FileType::RegularFile)
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
