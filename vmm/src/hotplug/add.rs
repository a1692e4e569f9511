//! `device_add`: from properties to a device in its slot.
//!
//! Everything on the host's side is done before the command returns. Each step that fails undoes those before it: nothing is
//! left, neither a process nor a held group nor pinned memory, and the error is the command's.

use std::sync::Arc;

use protocol::supervisor::Target;
use serde_json::{Map, Value};

use super::devices::{Devices, Entry, State};
use super::ready::Watched;
use super::supervisor::SupervisorError;
use super::worker::Job;
use crate::config::json;
use crate::config::place::ROOT_BUS;
use crate::config::properties::{self, Kind};
use crate::config::{ConfigError, DeviceConfig};
use crate::one_line::one_line;
use crate::pci::HotPlugError;
use crate::qmp::errors::QmpError;
use crate::vfio_user::{AttachError, VfioUserFunction};

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
    #[error("Watch device {id}")]
    Watch {
        id: String,
        #[source]
        source: std::io::Error,
    },
}

impl Devices {
    /// Adds the device that these properties describe.
    pub(super) fn add_from(
        self: &Arc<Self>,
        properties: Map<String, Value>,
    ) -> Result<(), QmpError> {
        let config = parse(properties)?;
        let id = config.id().to_owned();
        self.admit(&config)
            .and_then(|()| self.plug_new(&config))
            .map_err(|error| {
                let error = QmpError::from_chain(&error);
                tracing::warn!(device = id, error = error.desc, "device not added");
                error
            })
    }

    /// Takes the id and the source, unless they are taken.
    fn admit(&self, config: &DeviceConfig) -> Result<(), AddError> {
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
        match self.table().get(id).map(|entry| entry.state) {
            Some(State::Releasing) => {
                return Err(duplicate("it is being released; wait for DEVICE_DELETED"));
            }
            Some(State::Attaching | State::Present) => {
                return Err(duplicate("another device has it; ids are unique"));
            }
            None => {}
        }
        self.machine.pci.check_hot_plug(id, config.place())?;
        let mut table = self.table();
        let source = source_name(config);
        if let Some((other, _)) = table
            .iter()
            .find(|(_, entry)| source_name(&entry.config) == source)
        {
            return Err(AddError::SameSource {
                id: id.to_owned(),
                source_name: source,
                other: other.clone(),
            });
        }
        table.insert(id.to_owned(), Entry::new(config.clone()));
        Ok(())
    }

    /// Starts its server, attaches it, and puts it into its slot. Its entry is in the table; it is not if this fails.
    pub(super) fn plug_new(self: &Arc<Self>, config: &DeviceConfig) -> Result<(), AddError> {
        let id = config.id();
        let outcome = self.obtain(config).and_then(|function| {
            let placed = self.place(config, &function);
            if placed.is_err() {
                self.take_back(id, &function);
            }
            placed
        });
        if outcome.is_err() {
            // The supervisor may hold a part of it: a server that ends, or an answer that came too late.
            if let Some(supervisor) = &self.machine.supervisor
                && let Err(error) = supervisor.release(id)
            {
                tracing::debug!(device = id, error = one_line(&error), "nothing to release");
            }
            self.table().remove(id);
        }
        outcome
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
        let socket = supervisor
            .attach(&common.id, target)
            .map_err(|source| AddError::Supervisor { id: id(), source })?;
        Ok(self.machine.attacher.attach(socket, common)?)
    }

    fn place(
        self: &Arc<Self>,
        config: &DeviceConfig,
        function: &Arc<VfioUserFunction>,
    ) -> Result<(), AddError> {
        let id = config.id();
        // From here on a loss, a removal or the end of the machine finds it.
        self.change(id, |entry| {
            entry.function = Some(Arc::clone(function));
            entry.state = State::Present;
        });
        self.watch(function).map_err(|source| AddError::Watch {
            id: id.to_owned(),
            source,
        })?;
        let watched = Watched::new(Arc::clone(function), self.jobs.clone());
        self.machine.pci.hot_plug(config.place(), watched)?;
        if function.lost().is_some() {
            // It was lost before it had a slot that could tell the guest.
            let _taken = self.jobs.send(Job::Lost(id.to_owned()));
        }
        Ok(())
    }

    fn take_back(&self, id: &str, function: &Arc<VfioUserFunction>) {
        let mut watch = None;
        self.change(id, |entry| {
            entry.state = State::Attaching;
            entry.function = None;
            watch = entry.watch.take();
        });
        if let Some(token) = watch {
            self.machine.events.remove(token);
        }
        function.detach();
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
            Kind::Switch => (value.is_boolean() || value.is_string(), "boolean"),
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
