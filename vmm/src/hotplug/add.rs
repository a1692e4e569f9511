//! `device_add`: from properties to a device in its slot.
//!
//! Everything on the host's side is done before the command returns. Each step that fails undoes those before it: nothing is
//! left, neither a process nor a held group nor pinned memory, and the error is the command's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use protocol::supervisor::Target;
use serde_json::{Map, Value};

use super::devices::Devices;
use super::lifecycle::{Event, State};
use super::ready::Watched;
use super::supervisor::{Opening, Release, SupervisorError};
use super::table::{DeviceKey, Entry};
use super::worker::Job;
use crate::config::json;
use crate::config::place::ROOT_BUS;
use crate::config::properties::{self, Kind};
use crate::config::{ConfigError, DeviceConfig};
use crate::one_line::one_line;
use crate::pci::HotPlugError;
use crate::qmp::errors::QmpError;
use crate::vfio_user::{AttachError, VfioUserFunction};

/// How long a command that failed waits for what it began to be undone. Source: the supervisor kills a server that does not end
/// within 75 s.
const RELEASE_PATIENCE: Duration = Duration::from_secs(90);

/// Why a device was not added.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddError {
    #[error("Duplicate device ID '{id}': {state}")]
    Duplicate { id: String, state: &'static str },
    #[error(
        "Device '{driver}' does not support hotplugging: root ports are given on the command line"
    )]
    NotHotPluggable { driver: &'static str },
    #[error("Device '{id}': {source_name} is already passed to this machine as '{other}'")]
    SameSource {
        id: String,
        source_name: String,
        other: String,
    },
    #[error(transparent)]
    Place(#[from] HotPlugError),
    #[error("Attach device {id}: this VM has no supervisor that could start a device server")]
    NoSupervisor { id: String },
    #[error("Attach device {id}")]
    Supervisor {
        id: String,
        #[source]
        source: SupervisorError,
    },
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl Devices {
    /// Adds the device that these properties describe.
    pub(super) fn add_from(
        self: &Arc<Self>,
        properties: Map<String, Value>,
    ) -> Result<(), QmpError> {
        let config = parse(properties)?;
        let _device = config.vfio().map(|common| common.span().entered());
        let outcome = self
            .admit(&config)
            .and_then(|device| self.plug_new(&device, &config));
        outcome.map_err(|error| {
            let error = QmpError::from_chain(&error);
            tracing::warn!(error = error.desc, "device not added");
            error
        })
    }

    /// A lost device is plugged again.
    pub(super) fn attach_again(self: &Arc<Self>, device: &DeviceKey, config: &DeviceConfig) {
        let _device = config.vfio().map(|common| common.span().entered());
        match self.plug_new(device, config) {
            Ok(()) => tracing::warn!("started anew after it was lost"),
            Err(error) => {
                let error = one_line(&error);
                tracing::error!(error, "not started anew");
            }
        }
    }

    /// Takes the id and the source, unless they are taken.
    fn admit(&self, config: &DeviceConfig) -> Result<DeviceKey, AddError> {
        let id = config.id();
        if let DeviceConfig::RootPort(_) = config {
            return Err(AddError::NotHotPluggable {
                driver: "pcie-root-port",
            });
        }
        let duplicate = |state| AddError::Duplicate {
            id: id.to_owned(),
            state,
        };
        if id == ROOT_BUS {
            return Err(duplicate("the root bus has it"));
        }
        if self.is_port(id) {
            return Err(duplicate("a root port has it"));
        }
        let taken = |entries: &BTreeMap<String, Entry>| match entries.get(id) {
            Some(entry) => Err(duplicate(why_taken(entry.state))),
            None => Ok(()),
        };
        // An id that is taken comes before a place that is.
        self.table.look(taken)?;
        self.machine.pci.check_hot_plug(id, config.place())?;
        self.table.insert(config.clone(), State::Adding, |entries| {
            taken(entries)?;
            let source = source_name(config);
            let same = |entry: &&Entry| source_name(&entry.config) == source;
            match entries.values().find(same) {
                Some(other) => Err(AddError::SameSource {
                    id: id.to_owned(),
                    source_name: source.clone(),
                    other: other.config.id().to_owned(),
                }),
                None => Ok(()),
            }
        })
    }

    /// Starts its server, attaches it, and puts it into its slot. If this fails nothing of it is left.
    fn plug_new(
        self: &Arc<Self>,
        device: &DeviceKey,
        config: &DeviceConfig,
    ) -> Result<(), AddError> {
        let outcome = self.obtain(config).and_then(|function| {
            let placed = self.place(device, config, &function);
            if placed.is_err() {
                self.take_back(device, &function);
            }
            placed.map(|()| function)
        });
        match &outcome {
            Ok(function) => {
                self.on(device, Event::Placed);
                self.hear(device, function);
            }
            // The supervisor may hold a part of it: a server that ends, or an answer that came too late.
            Err(_) if self.release_now(device) => self.on(device, Event::NotPlaced),
            Err(_) => {}
        }
        outcome.map(drop)
    }

    fn obtain(&self, config: &DeviceConfig) -> Result<Arc<VfioUserFunction>, AddError> {
        let id = || config.id().to_owned();
        let (Some(common), Some(target)) = (config.vfio(), target(config)) else {
            return Err(AddError::NotHotPluggable {
                driver: "pcie-root-port",
            });
        };
        let supervisor = self.machine.supervisor.as_ref();
        let supervisor = supervisor.ok_or_else(|| AddError::NoSupervisor { id: id() })?;
        let failed = |source| AddError::Supervisor { id: id(), source };
        let (socket, opening) = supervisor.attach(&common.id, target).map_err(failed)?;
        let attacher = &self.machine.attacher;
        let begun = attacher.begin(socket, opening.is_some(), common);
        // Why a device was not opened says more than what became of its connection.
        opening.map_or(Ok(()), Opening::wait).map_err(failed)?;
        Ok(attacher.attach(begun?, common)?)
    }

    fn place(
        self: &Arc<Self>,
        device: &DeviceKey,
        config: &DeviceConfig,
        function: &Arc<VfioUserFunction>,
    ) -> Result<(), AddError> {
        // From here on the guest's removal or the end of the machine finds it.
        self.table
            .with(device, |entry| entry.function = Some(Arc::clone(function)));
        let watched = Watched::new(device, Arc::clone(function), self.jobs.clone());
        self.machine.pci.hot_plug(config.place(), watched)?;
        Ok(())
    }

    /// Hears from now on what becomes of the device. Not before it is in its place: a listener speaks once, and nothing could be
    /// done about it then. What happened meanwhile is heard at once.
    fn hear(&self, device: &DeviceKey, function: &Arc<VfioUserFunction>) {
        let cause = match self.watch(device, function) {
            Ok(()) => function.lost().map(|cause| one_line(&cause)),
            Err(error) => Some(format!("it cannot be watched: {}", one_line(&error))),
        };
        if let Some(cause) = cause {
            let device = device.clone();
            let _taken = self.jobs.send(Job::Lost { device, cause });
        }
    }

    fn take_back(&self, device: &DeviceKey, function: &Arc<VfioUserFunction>) {
        let watches = self.table.with(device, |entry| {
            entry.function = None;
            std::mem::take(&mut entry.watches)
        });
        for token in watches.into_iter().flatten() {
            self.machine.events.remove(token);
        }
        if let Err(error) = function.detach() {
            tracing::warn!(parent: &self.table.span(device), error, "not let go of in good order");
        }
    }

    /// Has the supervisor release what it holds of a device that was not placed. If that takes too long or fails, the device stays
    /// known, and the operator is told when the host has it.
    fn release_now(&self, device: &DeviceKey) -> bool {
        let Some(supervisor) = &self.machine.supervisor else {
            return true;
        };
        let (sender, first) = channel();
        let (jobs, key) = (self.jobs.clone(), device.clone());
        supervisor.release(device.id(), move |release| {
            // Only the first is waited for here.
            let _taken = sender.send(release.clone());
            let _taken = jobs.send(Job::Release(key.clone(), release));
        });
        match first.recv_timeout(RELEASE_PATIENCE) {
            Ok(Release::Done) => true,
            Ok(Release::Held(_)) => false,
            Err(_) => {
                let reason = "its device server has not ended yet".to_owned();
                let held = Job::Release(device.clone(), Release::Held(reason));
                let _taken = self.jobs.send(held);
                false
            }
        }
    }
}

fn why_taken(state: State) -> &'static str {
    match state {
        State::Lost(_) | State::Releasing(_) | State::Gone => {
            "it is being released; wait for DEVICE_DELETED"
        }
        State::Held(_) => {
            "it is released, but the host does not have it yet (query-vfio-user says why); wait for DEVICE_DELETED"
        }
        State::Adding
        | State::Present
        | State::Recalled
        | State::Dead
        | State::Restarting
        | State::Unwanted => "another device has it; ids are unique",
    }
}

fn parse(given: Map<String, Value>) -> Result<DeviceConfig, QmpError> {
    let Some(driver) = given.get("driver").and_then(Value::as_str) else {
        return Err(QmpError::missing_parameter("driver"));
    };
    for property in properties::of(driver).into_iter().flatten() {
        let Some(value) = given.get(property.name) else {
            continue;
        };
        let (fits, expected) = match property.kind {
            Kind::Text => (value.is_string(), "string"),
            Kind::Switch | Kind::SwitchOrWord => {
                (value.is_boolean() || value.is_string(), "boolean")
            }
            Kind::Number | Kind::Size => (value.is_u64() || value.is_string(), "integer"),
            Kind::Socket => (value.is_object() || value.is_string(), "string"),
        };
        if !fits {
            return Err(QmpError::parameter_type(property.name, expected));
        }
    }
    let list = json::from_object(given).map_err(|error| QmpError::generic(error.0))?;
    DeviceConfig::from_properties(list).map_err(|error| match error {
        ConfigError::Device { device, reason } => {
            QmpError::generic(format!("Device '{device}': {reason}"))
        }
        ConfigError::Option { .. } | ConfigError::Missing(_) => {
            QmpError::generic(error.to_string())
        }
    })
}

fn target(config: &DeviceConfig) -> Option<Target> {
    match config {
        DeviceConfig::RootPort(_) => None,
        DeviceConfig::VfioPci(device) => Some(Target::Host {
            host: device.host,
            options: device.common.options,
        }),
        DeviceConfig::VfioUserPci(device) => Some(Target::Socket {
            path: device.socket.display().to_string(),
        }),
    }
}

/// What is behind a device, in words that are equal for equal sources.
pub(super) fn source_name(config: &DeviceConfig) -> String {
    match config {
        DeviceConfig::RootPort(port) => format!("root port {}", port.id),
        DeviceConfig::VfioPci(device) => format!("host device {}", device.host),
        DeviceConfig::VfioUserPci(device) => format!("socket {}", device.socket.display()),
    }
}
