//! The table of passed devices: who is there, in which state, and who is asked about all of them.
//!
//! Attaching at start is all or nothing: when one fails, those before it are let go. Behind a device that is lost there is
//! no memory any more; KVM finds out first, by a run that fails, and asks here to take the mappings away.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::attacher::Attacher;
use super::ready::Watched;
use super::releases::{self, Releases};
use super::slots::Slots;
use super::supervisor::Supervisor;
use super::worker::{self, Job};
use crate::config::{Config, DeviceConfig};
use crate::event_loop::{EventLoop, Handler, Interest, Source, Token};
use crate::kvm::MemoryFaultHandler;
use crate::pci::{PciError, PciHost};
use crate::qmp::events::Event;
use crate::threads::{Kind, Threads};
use crate::vfio_user::{AttachError, VfioUserFunction, VmServices};

/// A device of the command line cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The supervisor gave no socket for it.
    #[error("Attach device '{0}': there is no socket for it")]
    NoSocket(String),
    /// It cannot be put into its place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its server, or what it says.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Its connection cannot be waited for.
    #[error("Watch device '{id}'")]
    Watch {
        /// Its id.
        id: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What devices need of the machine.
pub struct Machine {
    /// Where they are put.
    pub pci: Arc<PciHost>,
    /// Memory slots, interrupts, guest RAM.
    pub services: VmServices,
    /// Who waits for their connections: [`watch_connections`].
    pub events: Arc<EventLoop>,
    /// Who attaches them.
    pub attacher: Attacher,
    /// Who has device servers; without one nothing can be added.
    pub supervisor: Option<Supervisor>,
    /// Tells the operator.
    pub tell: Box<dyn Fn(&Event) + Send + Sync>,
}

/// Starts a thread for the connections of devices. It looks whether accesses are late, so it must never wait for one; the
/// machine's own event loop does, in a guest reset.
pub fn watch_connections(threads: &Threads) -> io::Result<Arc<EventLoop>> {
    let events = Arc::new(EventLoop::new()?);
    let watched = Arc::clone(&events);
    let body = move || {
        if let Err(error) = watched.run() {
            // Without it an access could wait for ever.
            tracing::error!(%error, "the connections of devices cannot be watched any more");
            std::process::abort();
        }
    };
    threads.start(Kind::Connections, "connections", body)?;
    Ok(events)
}

/// All passed devices.
pub struct Devices {
    pub(super) machine: Machine,
    pub(super) jobs: Sender<Job>,
    /// Stops the processors (`on-failure=stop`); set when the worker starts.
    pub(super) stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Ids of root ports: taken, and no devices.
    ports: Vec<String>,
    table: Mutex<BTreeMap<String, Entry>>,
    pub(super) releases: Releases,
    /// The threads' ends of `jobs` and `releases`, until they start.
    waiting: Mutex<Option<(Receiver<Job>, releases::Waiting)>>,
}

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its server is started, or it is attached.
    Attaching,
    /// In its place.
    Present,
    /// Out of its place; its server ends.
    Releasing,
}

/// One device.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) config: DeviceConfig,
    pub(super) state: State,
    pub(super) function: Option<Arc<VfioUserFunction>>,
    pub(super) watch: Option<Token>,
    /// The operator was told that it is lost.
    pub(super) lost_told: bool,
    /// Plug it again once it is released.
    pub(super) restart: bool,
    /// When it was started anew because it was lost.
    pub(super) restarts: Vec<Instant>,
}

impl Entry {
    pub(super) fn new(config: DeviceConfig) -> Entry {
        Entry {
            config,
            state: State::Attaching,
            function: None,
            watch: None,
            lost_told: false,
            restart: false,
            restarts: Vec::new(),
        }
    }
}

impl Devices {
    /// None yet, but the root ports, whatever their place on the command line: a device may come before its bus.
    pub fn new(config: &Config, machine: Machine) -> Result<Arc<Devices>, DeviceError> {
        let mut ports = Vec::new();
        for device in &config.devices {
            if let DeviceConfig::RootPort(port) = device {
                machine.pci.add_root_port(port)?;
                ports.push(port.id.clone());
            }
        }
        let (jobs, waiting) = channel();
        machine.pci.connect_slots(Arc::new(Slots {
            vm: Arc::clone(&machine.services.vm),
            jobs: jobs.clone(),
        }));
        let (releases, to_release) = releases::queue();
        Ok(Arc::new(Devices {
            machine,
            jobs,
            stop: OnceLock::new(),
            ports,
            table: Mutex::default(),
            releases,
            waiting: Mutex::new(Some((waiting, to_release))),
        }))
    }

    /// Attaches the devices of the command line.
    pub fn attach(
        self: &Arc<Self>,
        config: &Config,
        mut sockets: Vec<(String, OwnedFd)>,
    ) -> Result<(), DeviceError> {
        for device in config
            .devices
            .iter()
            .filter(|device| device.vfio().is_some())
        {
            let index = sockets.iter().position(|(id, _)| id == device.id());
            let no_socket = || DeviceError::NoSocket(device.id().to_owned());
            let (_, socket) = sockets.swap_remove(index.ok_or_else(no_socket)?);
            if let Err(error) = self.attach_at_start(socket, device) {
                self.release();
                return Err(error);
            }
        }
        Ok(())
    }

    fn attach_at_start(
        self: &Arc<Self>,
        socket: OwnedFd,
        device: &DeviceConfig,
    ) -> Result<(), DeviceError> {
        let Some(common) = device.vfio() else {
            return Ok(());
        };
        let function = self.machine.attacher.attach(socket, common)?;
        let mut entry = Entry::new(device.clone());
        entry.function = Some(Arc::clone(&function));
        self.table().insert(common.id.clone(), entry);
        let watched = Watched::new(Arc::clone(&function), self.jobs.clone());
        self.machine.pci.plug(&common.place, watched)?;
        self.watch(&function).map_err(|source| DeviceError::Watch {
            id: common.id.clone(),
            source,
        })?;
        self.change(&common.id, |entry| entry.state = State::Present);
        Ok(())
    }

    /// Starts the threads that carry out what slots decide. `stop` stops the processors.
    pub fn start(
        self: &Arc<Self>,
        threads: &Threads,
        stop: Box<dyn Fn() + Send + Sync>,
    ) -> io::Result<()> {
        let Some((jobs, to_release)) = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return Ok(());
        };
        let _first = self.stop.set(stop);
        releases::start(threads, self, to_release)?;
        let devices = Arc::clone(self);
        let body = move || worker::run(&devices, &jobs);
        threads.start(Kind::HotPlug, "hot-plug", body).map(drop)
    }

    /// Lets all devices go: the machine ends.
    pub fn release(&self) {
        let entries: Vec<Entry> = std::mem::take(&mut *self.table()).into_values().collect();
        for entry in entries {
            if let Some(token) = entry.watch {
                self.machine.events.remove(token);
            }
            if let Some(function) = entry.function {
                function.detach();
            }
        }
    }

    /// Serves what the device's server asks, and notices when it is gone.
    pub(super) fn watch(&self, function: &Arc<VfioUserFunction>) -> io::Result<()> {
        let watch = Arc::new(Watch {
            function: Arc::clone(function),
            jobs: self.jobs.clone(),
            token: Mutex::new(None),
        });
        // Held until the token is known: the handler may be called before `add` returns.
        let mut known = watch.token.lock().unwrap_or_else(PoisonError::into_inner);
        let token = self.machine.events.add(
            Arc::clone(function) as Source,
            Interest::Readable,
            Arc::clone(&watch) as Arc<dyn Handler>,
        )?;
        *known = Some(token);
        drop(known);
        function.is_watched();
        self.change(crate::pci::PciFunction::id(function.as_ref()), |entry| {
            entry.watch = Some(token);
        });
        Ok(())
    }

    pub(super) fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a device that is there.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.table().get_mut(id) {
            change(entry);
        }
    }

    pub(super) fn is_port(&self, id: &str) -> bool {
        self.ports.iter().any(|port| port == id)
    }
}

impl MemoryFaultHandler for Devices {
    fn drop_lost_mappings(&self, gpa: Option<u64>) -> bool {
        let functions: Vec<Arc<VfioUserFunction>> = self
            .table()
            .values()
            .filter_map(|entry| entry.function.clone())
            .collect();
        // Each of them is asked: without an address it may be any.
        functions
            .iter()
            .filter(|function| function.drop_lost_mappings(gpa))
            .count()
            > 0
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Devices")
            .field("ports", &self.ports)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Machine")
            .field("pci", &self.pci)
            .finish_non_exhaustive()
    }
}

/// Looks after one device's connection.
struct Watch {
    function: Arc<VfioUserFunction>,
    jobs: Sender<Job>,
    token: Mutex<Option<Token>>,
}

impl Handler for Watch {
    fn ready(&self, events: &EventLoop) {
        if self.function.service() {
            return;
        }
        // Lost: a closed connection stays readable for ever.
        let token = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(token) = token {
            events.remove(token);
            let id = crate::pci::PciFunction::id(self.function.as_ref()).to_owned();
            let _taken = self.jobs.send(Job::Lost(id));
        }
    }
}
