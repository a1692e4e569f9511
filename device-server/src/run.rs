//! Start-up and shutdown of the process, as numbered steps.
//!
//! One thread serves one device; the main thread waits for a signal or for the last of them to end.
//! Not here: what a session does (`server/`), how devices are opened (`backends/`).

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::limits;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::backend::Backend;
use crate::backends::test::{TestDevice, TestDeviceOptions};
use crate::backends::vfio::{OpenError, OpenOptions};
use crate::cli::{Command, Devices, Endpoint};
use crate::ready::ReadyLine;
use crate::server::listener::{ListenError, Listener, SocketFile};
use crate::server::{ServeConfig, ServeError, Shutdown, Source};

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

/// Does what the command line says. `ready` gets its line at step 5, or never if there is an error.
pub fn run(command: Command, ready: &mut Option<ReadyLine>) -> Result<(), RunError> {
    // 1. Block the signals that end the process before there is a second thread: all threads inherit that.
    let signals = block_signals().map_err(|source| set_up("block SIGTERM and SIGINT", source))?;
    // 2. Open the devices. Nothing of this listens to a client yet.
    let devices = open(command.devices)?;
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
    // 4. One eventfd stops all sessions, another tells that one has ended.
    let shutdown = Shutdown::new().map_err(|source| set_up("make the shutdown eventfd", source))?;
    let ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| set_up("make the eventfd of ended sessions", errno.into()))?;
    // 5. Tell whoever waits.
    if let Some(line) = ready.take() {
        line.ready();
    }
    // 6. Serve, until all have ended or a signal comes.
    let mut files = Vec::new();
    let mut threads = Vec::new();
    for device in served {
        files.push(device.file);
        threads.push(spawn(
            device.config,
            device.backend,
            device.source,
            &shutdown,
            &ended,
        )?);
    }
    wait_for_end(&signals, &ended, &threads);
    // 7. Take the sockets away first, so that nobody connects to a process that is ending; then end the sessions.
    drop(files);
    shutdown.request();
    join_all(threads, &ended)
}

/// A device that is open, how it is served, and where.
type Opened = (ServeConfig, Box<dyn Backend>, Endpoint);

fn open(devices: Devices) -> Result<Vec<Opened>, RunError> {
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
                ServeConfig::new("test".to_owned(), true),
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
            let (hosts, endpoints): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
            let backends = crate::backends::vfio::open(&hosts, &options)?;
            // The hardware does the DMA: no message ever, so no second socket for them.
            let configs = hosts
                .iter()
                .map(|host| ServeConfig::new(host.to_string(), false));
            let devices = configs.zip(backends).zip(endpoints);
            Ok(devices
                .map(|((config, backend), endpoint)| (config, backend, endpoint))
                .collect())
        }
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

fn spawn(
    config: ServeConfig,
    backend: Box<dyn Backend>,
    source: Source,
    shutdown: &Shutdown,
    ended: &OwnedFd,
) -> Result<JoinHandle<Result<(), ServeError>>, RunError> {
    let shutdown = shutdown.clone();
    let ended = ended
        .try_clone()
        .map_err(|source| set_up("copy an eventfd", source))?;
    let name = config.device.clone();
    let body = move || {
        let result = crate::server::serve(source, backend, &config, &shutdown);
        if let Err(error) = &result {
            tracing::error!(
                device = config.device,
                error = error_chain(error),
                "The device is served no longer"
            );
        }
        let _ = rustix::io::write(&ended, &1u64.to_ne_bytes());
        result
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|source| set_up("start a thread", source))
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

/// Returns when a signal came or no thread runs any more.
fn wait_for_end(
    signals: &SignalFd,
    ended: &OwnedFd,
    threads: &[JoinHandle<Result<(), ServeError>>],
) {
    while threads.iter().any(|thread| !thread.is_finished()) {
        let mut poll = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut poll, None);
        let [signal, end] = &poll;
        if signal.revents().contains(PollFlags::IN) {
            tracing::info!("Told to stop by a signal");
            return;
        }
        if end.revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(ended, &mut [0u8; 8]);
        }
    }
}

/// Joins the threads. One that is held up by its device for longer than a reset may take is left behind.
fn join_all(
    threads: Vec<JoinHandle<Result<(), ServeError>>>,
    ended: &OwnedFd,
) -> Result<(), RunError> {
    let give_up = Instant::now().checked_add(limits::RESET_DEADLINE);
    while threads.iter().any(|thread| !thread.is_finished()) {
        let left = give_up.map_or(limits::RESET_DEADLINE, |at| {
            at.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            tracing::error!("A device did not end its session in time");
            break;
        }
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut poll = [PollFd::new(ended, PollFlags::IN)];
        let _ = rustix::event::poll(&mut poll, Some(&timeout));
        let _ = rustix::io::read(ended, &mut [0u8; 8]);
    }
    let mut result = Ok(());
    for thread in threads.into_iter().filter(JoinHandle::is_finished) {
        if let Ok(Err(error)) = thread.join() {
            result = Err(error.into());
        }
    }
    result
}

/// An error and all its causes as one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ").replace('\n', " ")
}

fn set_up(step: &'static str, source: io::Error) -> RunError {
    RunError::SetUp { step, source }
}
