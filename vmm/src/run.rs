//! The jailed stage: start-up, the running machine, reset and shut-down as numbered steps.
//!
//! Everything it works with was opened by the supervisor. It ends when the guest turns itself off, when it resets
//! itself and `-no-reboot` is given, when a signal asks for it, or when the machine cannot go on.

mod jail;
mod board;
mod boot_choice;
mod operator;
mod query_pci;
mod processors;
mod inherited;
mod signals;
mod stages;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use protocol::closing::is_full;
use protocol::transport::ByteStream;
use rustix::event::{EventfdFlags, eventfd};
use sandbox::enter::EnterError;
use serde_json::Value;
use telemetry::metrics::{Clients, Exporter};

use crate::address_space::Overlap;
use crate::config::{Config, StageConfig};
use crate::event_loop::{EventLoop, Interest};
use crate::hotplug::{self, DeviceError};
use crate::kvm::{FatalExit, KvmError};
use crate::machine::boot::BootError;
use crate::machine::power::StopRequest;
use crate::memory::layout::LayoutError;
use crate::memory::ram::RamError;
use crate::pci::PciError;
use crate::qmp::commands::Context;
use crate::qmp::events::{Event, ShutdownCause};
use crate::qmp::machine::RunControl;
use crate::qmp::server::{CommandQueues, Server};
use crate::threads::{Kind, Threads};

use self::board::Board;
pub use self::inherited::{InheritError, Inherited};
use self::jail::Jail;
use self::operator::{Control, Parts};
use self::stages::Stages;

/// How a machine ended that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest turned itself off.
    PowerOff,
    /// The guest reset itself, and `-no-reboot` is given.
    GuestReset,
    /// The operator reset it, and `-no-reboot` is given.
    OperatorReset,
    /// The operator typed Ctrl-A x.
    Operator,
    /// `quit`.
    Quit,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal(i32),
}

impl ExitReason {
    /// The status of the process.
    pub fn status(self) -> u8 {
        match self {
            ExitReason::PowerOff
            | ExitReason::GuestReset
            | ExitReason::OperatorReset
            | ExitReason::Operator
            | ExitReason::Quit => 0,
            ExitReason::Signal(number) => {
                u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
            }
        }
    }
}

/// How a machine ended that did not end well, or never began. The text, with its sources, is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The supervisor handed over something unusable.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory cannot be placed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Memory cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// PCI cannot be set up.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A device cannot be attached.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel cannot be booted.
    #[error("-kernel {}", kernel.display())]
    Boot {
        /// Its path on the command line.
        kernel: PathBuf,
        /// Why.
        #[source]
        source: BootError,
    },
    /// Two parts of the board want the same addresses.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// More vCPUs than this kernel has.
    #[error("-smp {wanted}: KVM on this host takes at most {limit} CPUs")]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What there is.
        limit: usize,
    },
    /// A system call of the event loop or a port.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] EnterError),
    /// The guest broke its machine.
    #[error("{0}")]
    Fatal(FatalExit),
}

/// Runs the machine that the supervisor prepared (stage 2).
pub fn run_vmm(stage: StageConfig) -> Result<ExitReason, RunError> {
    let config = &stage.config;
    let stages = Stages::start();
    // 1. What the supervisor opened, and nothing else. Signals, before any thread exists that would not have them blocked.
    let mut inherited = Inherited::adopt(&stage.fds, config)?;
    let signals = signals::block().map_err(io("Prepare for signals"))?;
    // 2. The host is left behind: no file system, no network, no privilege, a user of its own.
    let (jail, threads) = Jail::enter(&stage, &inherited)?;
    // 3. The board: memory, chips, PCI, serial ports. From here on the operator's terminal belongs to the guest.
    let (qmp, commands) = Server::new().map_err(io("Prepare for QMP"))?;
    let listeners = std::mem::take(&mut inherited.qmp);
    let sockets = std::mem::take(&mut inherited.devices);
    let metrics = inherited.metrics.take();
    let mut board = Board::build(config, inherited, &qmp, &threads, &stages)?;
    // 4. What serves the operator, and what closes for all. All threads exist now; none reads a peer's byte before all are confined.
    let mut service = Service {
        no_reboot: config.no_reboot,
        ended: Arc::default(),
        qmp,
        sandbox: Arc::default(),
    };
    service.start(config, &board, &threads, commands)?;
    if let Some(listener) = metrics {
        export(&threads, listener, &board)?;
    }
    threads
        .start_closing()
        .map_err(io("Start the threads that close"))?;
    let enforced = jail.close(threads.complete())?;
    tracing::info!(%enforced, "Sandbox");
    let _first = service
        .sandbox
        .set(operator::describe(config.sandbox.mode, &enforced));
    // 5. The devices, which tell the operator what becomes of them.
    board.devices.attach(config, sockets)?;
    stages.reached("devices-attached");
    // 6. What the first vCPU needs, and the first state of everything that firmware would set.
    let processors = Arc::clone(&board.vcpus);
    board.power_on(&processors.hold())?;
    stages.reached("kernel-loaded");
    // 7. The event loop's sources; the operator may command; the guest runs.
    board.watch(&signals, &service.ended)?;
    let listening = service.qmp.listen(listeners);
    listening.map_err(io("Listen to QMP clients"))?;
    processors.hold().resume();
    stages.reached("guest-started");
    let outcome = service.run(&mut board);
    stages.reached("guest-ended");
    // 8. Nothing runs any more, then devices are let go, then memory.
    let stopped = processors.shut_down();
    service.tell_end(&outcome);
    board.devices.release();
    let reason = outcome?;
    stopped?;
    Ok(reason)
}

/// Starts the thread that answers who reads metrics. It lives as long as the process.
fn export(threads: &Threads, listener: OwnedFd, board: &Board) -> Result<(), RunError> {
    let failed = io("Prepare the metrics socket");
    let clients = Clients {
        may_come: || !is_full(),
        adopt: |socket| Box::new(ByteStream::new(socket)),
    };
    let registry = hotplug::registry(&board.devices);
    let exporter = Exporter::new(listener, registry, clients).map_err(failed)?;
    let never = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let started = threads.start(Kind::Metrics, "metrics", move || exporter.serve(never));
    started.map_err(failed)?;
    Ok(())
}

impl Board {
    fn watch(
        &self,
        signals: &signals::Signals,
        ended: &Arc<Mutex<Option<ExitReason>>>,
    ) -> Result<(), RunError> {
        let stop = |events: &EventLoop| events.stop();
        let failed = io("Watch an event source");
        self.events
            .add(self.stop.fd(), Interest::Readable, Arc::new(stop))
            .map_err(failed)?;
        signals
            .watch(&self.events, Arc::clone(ended))
            .map_err(io("Watch for signals"))?;
        for port in &self.serial {
            let (events, ended) = (Arc::clone(&self.events), Arc::clone(ended));
            let on_end = move || {
                *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ExitReason::Operator);
                events.stop();
            };
            port.watch(&self.events, Arc::new(on_end))
                .map_err(io("Watch a serial port"))?;
        }
        Ok(())
    }
}

/// Serves the running machine: its own requests and the operator's.
struct Service {
    no_reboot: bool,
    ended: Arc<Mutex<Option<ExitReason>>>,
    qmp: Server,
    /// How this process is confined, for the operator.
    sandbox: Arc<OnceLock<Value>>,
}

impl Service {
    /// Starts what serves the operator: the hot-plug worker, then QMP.
    fn start(
        &self,
        config: &Config,
        board: &Board,
        threads: &Threads,
        commands: CommandQueues,
    ) -> Result<(), RunError> {
        let control = Arc::new(Control {
            processors: Arc::clone(&board.vcpus),
            stop: Arc::clone(&board.stop),
            power: Arc::clone(&board.power),
            events: Arc::clone(&board.events),
            ended: Arc::clone(&self.ended),
            qmp: self.qmp.clone(),
        });
        let stopper = Arc::clone(&control);
        let stop = move || {
            if let Err(error) = stopper.stop() {
                tracing::error!(error = error.desc, "the processors were not stopped");
            }
        };
        board
            .devices
            .start(threads, Box::new(stop))
            .map_err(io("Start the hot-plug thread"))?;
        let inventory = Parts {
            name: config.name.clone(),
            memory_bytes: config.memory.size_bytes,
            processors: Arc::clone(&board.vcpus),
            pci: Arc::clone(&board.pci),
            devices: Arc::clone(&board.devices),
            sandbox: Arc::clone(&self.sandbox),
        };
        let context = Context {
            control,
            inventory: Arc::new(inventory),
            devices: board.devices.operator(),
            boot: Arc::clone(&board.boot) as _,
        };
        self.qmp
            .start(threads, commands, context)
            .map_err(io("Start the QMP server"))
    }

    /// Until the machine ends.
    fn run(&mut self, board: &mut Board) -> Result<ExitReason, RunError> {
        loop {
            board.events.run().map_err(io("Wait for events"))?;
            if let Some(reason) = *self.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                return Ok(reason);
            }
            let (reason, cause) = match board.stop.take() {
                Some(StopRequest::PowerOff) => return Ok(ExitReason::PowerOff),
                Some(StopRequest::GuestReset) => {
                    (ExitReason::GuestReset, ShutdownCause::GuestReset)
                }
                Some(StopRequest::OperatorReset) => {
                    (ExitReason::OperatorReset, ShutdownCause::HostQmpSystemReset)
                }
                Some(StopRequest::Fatal(exit)) => return Err(RunError::Fatal(exit)),
                None => continue,
            };
            if self.no_reboot {
                return Ok(reason);
            }
            tracing::info!(?cause, "reset");
            board.reset()?;
            self.qmp.send(&Event::Reset(cause));
        }
    }

    fn tell_end(&self, outcome: &Result<ExitReason, RunError>) {
        let cause = match outcome {
            Ok(ExitReason::PowerOff) => ShutdownCause::GuestShutdown,
            Ok(ExitReason::GuestReset) => ShutdownCause::GuestReset,
            Ok(ExitReason::OperatorReset) => ShutdownCause::HostQmpSystemReset,
            Ok(ExitReason::Operator) => ShutdownCause::HostUi,
            Ok(ExitReason::Quit) => ShutdownCause::HostQmpQuit,
            Ok(ExitReason::Signal(_)) => ShutdownCause::HostSignal,
            Err(RunError::Fatal(_)) => ShutdownCause::GuestPanic,
            Err(_) => ShutdownCause::HostError,
        };
        self.qmp.send(&Event::Shutdown(cause));
    }
}

fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> RunError + Copy {
    move |source| RunError::Io { step, source }
}
