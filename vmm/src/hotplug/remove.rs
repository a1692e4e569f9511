//! How a device leaves: the operator asks the guest for it, takes it, or it is lost.
//!
//! All ways meet in [`Devices::release_device`], which runs when the slot says that the device is out. Only when the server
//! has ended is the operator told DEVICE_DELETED: then the group can be opened again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::devices::{Devices, Entry, State};
use crate::config::OnFailure;
use crate::config::place::ROOT_BUS;
use crate::one_line::one_line;
use crate::pci::slot;
use crate::qmp::errors::QmpError;
use crate::qmp::events::Event;
use crate::qmp::machine::{self, After};

/// Restarts of one device within [`RESTART_WINDOW`]; one more, and it is removed.
const MAX_RESTARTS: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// What QMP asks, of devices that outlive the call.
pub(super) struct Operator(pub(super) Arc<Devices>);

impl machine::Devices for Operator {
    fn add(&self, properties: Map<String, Value>) -> Result<(), QmpError> {
        self.0.add_from(properties)
    }

    fn remove(&self, id: &str, force: bool) -> Result<After, QmpError> {
        self.0.removal(id, force)
    }
}

impl Devices {
    /// What `device_add` and `device_del` act on.
    pub fn operator(self: &Arc<Self>) -> Arc<dyn machine::Devices> {
        Arc::new(Operator(Arc::clone(self)))
    }

    /// Checks that the device can be asked for; what it gives asks for it.
    fn removal(self: &Arc<Self>, id: &str, force: bool) -> Result<After, QmpError> {
        if self.is_port(id) {
            return Err(QmpError::generic(format!(
                "Device '{id}' is a root port and stays for as long as the machine runs"
            )));
        }
        let (state, place) = {
            let table = self.table();
            let entry = table.get(id).ok_or_else(|| QmpError::unknown_device(id))?;
            (entry.state, entry.config.place().clone())
        };
        if place.bus == ROOT_BUS {
            return Err(QmpError::generic(format!(
                "Bus '{ROOT_BUS}' does not support hotplugging: device '{id}' stays for as long as the machine runs; only \
                 devices behind a pcie-root-port can be removed"
            )));
        }
        let (devices, id) = (Arc::clone(self), id.to_owned());
        Ok(Box::new(move || {
            // A device that is on its way out needs no second request.
            if state == State::Present {
                let event = if force {
                    slot::Event::Vanished
                } else {
                    slot::Event::EjectRequested
                };
                devices.machine.pci.slot_event(&id, event);
            }
        }))
    }

    /// The device or its server is gone.
    pub(super) fn lost(self: &Arc<Self>, id: &str) {
        let found = {
            let table = self.table();
            table.get(id).cloned()
        };
        // A device that is let go loses its connection by our own doing.
        let Some(entry) = found.filter(|entry| entry.state == State::Present) else {
            return;
        };
        if !entry.lost_told {
            self.change(id, |entry| entry.lost_told = true);
            self.tell_lost(id, &entry);
        }
        // On the root bus there is no slot, and the device stays lost.
        self.machine.pci.slot_event(id, slot::Event::Vanished);
    }

    fn tell_lost(&self, id: &str, entry: &Entry) {
        let cause = entry
            .function
            .as_ref()
            .and_then(|function| function.lost())
            .map_or_else(|| "unknown".to_owned(), |cause| one_line(&cause));
        (self.machine.tell)(&Event::DeviceLost {
            device: id.to_owned(),
            cause,
        });
        let policy = entry
            .config
            .vfio()
            .map_or(OnFailure::Remove, |common| common.on_failure);
        match policy {
            OnFailure::Stop => {
                if let Some(stop) = self.stop.get() {
                    stop();
                }
            }
            OnFailure::Restart => self.change(id, |entry| entry.restart = true),
            OnFailure::Remove => {}
        }
    }

    /// The device is out of its slot: lets go of it, has its server end, and tells the operator.
    pub(super) fn release_device(self: &Arc<Self>, id: &str) {
        let mut taken = None;
        self.change(id, |entry| {
            if entry.state == State::Present {
                entry.state = State::Releasing;
                taken = Some((entry.function.take(), entry.watch.take()));
            }
        });
        let Some((function, watch)) = taken else {
            return;
        };
        // 1. Its end is no loss.
        if let Some(token) = watch {
            self.machine.events.remove(token);
        }
        // 2. BAR slots and mappings gone, interrupts off, guest memory taken back, connection closed.
        if let Some(function) = function {
            function.detach();
        }
        // 3. Its place is free.
        self.machine.pci.unplug(id);
        // 4. Its server resets the device and ends; the group can be opened again.
        let released = self
            .machine
            .supervisor
            .as_ref()
            .map_or(Ok(()), |supervisor| supervisor.release(id));
        if let Err(error) = released {
            tracing::error!(
                device = id,
                error = one_line(&error),
                "the device is out of the guest, but its server did not end: the host cannot use it"
            );
        }
        self.end(id);
    }

    /// Plugs a lost device again, or forgets it.
    fn end(self: &Arc<Self>, id: &str) {
        if let Some(config) = self.restart(id) {
            match self.plug_new(&config) {
                Ok(()) => {
                    tracing::warn!(device = id, "started anew after it was lost");
                    return;
                }
                Err(error) => {
                    tracing::error!(device = id, error = one_line(&error), "not started anew")
                }
            }
        }
        self.table().remove(id);
        (self.machine.tell)(&Event::DeviceDeleted {
            device: id.to_owned(),
        });
    }

    /// The configuration of a device that is to be started anew, if it was not too often.
    fn restart(&self, id: &str) -> Option<crate::config::DeviceConfig> {
        let mut table = self.table();
        let entry = table.get_mut(id).filter(|entry| entry.restart)?;
        entry.restart = false;
        let now = Instant::now();
        entry
            .restarts
            .retain(|at| now.duration_since(*at) < RESTART_WINDOW);
        if entry.restarts.len() >= MAX_RESTARTS {
            tracing::error!(
                device = id,
                restarts = MAX_RESTARTS,
                "lost too often within a minute: it is removed"
            );
            return None;
        }
        entry.restarts.push(now);
        entry.state = State::Attaching;
        entry.lost_told = false;
        Some(entry.config.clone())
    }
}
