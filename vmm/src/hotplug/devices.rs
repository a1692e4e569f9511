//! All passed devices: how they are attached at the start, and who is asked about all of them.
//!
//! Attaching at start is all or nothing: when one fails, those before it are let go. Behind a device that is lost there is
//! no memory any more; KVM finds out first, by a run that fails, and asks here to take the mappings away.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::attacher::Attacher;
use super::lifecycle::State;
use super::ready::Watched;
use super::slots::Slots;
use super::supervisor::Supervisor;
use super::table::Table;
use super::tasks::Tasks;
use super::worker::{self, Job};
use crate::config::{Config, DeviceConfig};
use crate::event_loop::EventLoop;
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
    /// The threads for hot-plug.
    #[error("Start the threads that attach and release devices")]
    Threads(#[source] io::Error),
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

/// All passed devices.
pub struct Devices {
    pub(super) machine: Machine,
    pub(super) jobs: Sender<Job>,
    /// What waits.
    pub(super) tasks: Tasks,
    /// Stops the processors (`on-failure=stop`); set when the worker starts.
    pub(super) stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Ids of root ports: taken, and no devices.
    ports: Vec<String>,
    pub(super) table: Table,
    /// The worker's end of `jobs`, until it starts.
    waiting: Mutex<Option<Receiver<Job>>>,
}

impl Devices {
    /// None yet, but the threads for them and the root ports, whatever their place on the command line: a device may come before its bus.
    pub fn new(
        config: &Config,
        machine: Machine,
        threads: &Threads,
    ) -> Result<Arc<Devices>, DeviceError> {
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
        Ok(Arc::new(Devices {
            machine,
            jobs,
            tasks: Tasks::start(threads).map_err(DeviceError::Threads)?,
            stop: OnceLock::new(),
            ports,
            table: Table::default(),
            waiting: Mutex::new(Some(waiting)),
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
        let begun = self.machine.attacher.begin(socket, false, common)?;
        let function = self.machine.attacher.attach(begun, common)?;
        let Ok(key) = self
            .table
            .insert(device.clone(), State::Present, |_| Ok::<(), Infallible>(()));
        self.table
            .with(&key, |entry| entry.function = Some(Arc::clone(&function)));
        let watched = Watched::new(&key, Arc::clone(&function), self.jobs.clone());
        self.machine.pci.plug(&common.place, watched)?;
        self.watch(&key, &function)
            .map_err(|source| DeviceError::Watch {
                id: common.id.clone(),
                source,
            })
    }

    /// Starts the thread that carries out what slots decide. `stop` stops the processors.
    pub fn start(
        self: &Arc<Self>,
        threads: &Threads,
        stop: Box<dyn Fn() + Send + Sync>,
    ) -> io::Result<()> {
        let Some(waiting) = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return Ok(());
        };
        let _first = self.stop.set(stop);
        let devices = Arc::clone(self);
        let body = move || worker::run(&devices, &waiting);
        threads.start(Kind::HotPlug, "hot-plug", body).map(drop)
    }

    /// Lets all devices go: the machine ends.
    pub fn release(&self) {
        for entry in self.table.take_all() {
            for token in entry.watches {
                self.machine.events.remove(token);
            }
            if let Some(function) = entry.function {
                // The machine ends: whoever keeps something of it is the supervisor's concern.
                let _detached = function.detach();
            }
        }
    }

    pub(super) fn is_port(&self, id: &str) -> bool {
        self.ports.iter().any(|port| port == id)
    }
}

impl MemoryFaultHandler for Devices {
    fn drop_lost_mappings(&self, gpa: Option<u64>) -> bool {
        let functions: Vec<Arc<VfioUserFunction>> = self
            .table
            .all()
            .into_iter()
            .filter_map(|entry| entry.function)
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
