//! How a device leaves: the operator asks the guest for it, takes it, it is lost, or the host wants it back. What is decided in
//! `lifecycle` is done here.
//!
//! Only when the supervisor says that the host has the device is the operator told DEVICE_DELETED: then the group can be
//! opened again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::devices::Devices;
use super::lifecycle::{self, Action, Event, Seat, State};
use super::supervisor::Release;
use super::table::DeviceKey;
use super::worker::Job;
use crate::config::place::ROOT_BUS;
use crate::config::{DeviceConfig, OnFailure};
use crate::pci::PciFunction;
use crate::pci::slot::{self, Phase};
use crate::qmp::errors::QmpError;
use crate::qmp::events;
use crate::qmp::machine::{self, After};

/// Restarts of one device within [`RESTART_WINDOW`]; one more, and it is removed.
pub(super) const MAX_RESTARTS: usize = 3;
pub(super) const RESTART_WINDOW: Duration = Duration::from_secs(60);

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
        let entry = self.table.by_id(id);
        let entry = entry.ok_or_else(|| QmpError::unknown_device(id))?;
        if entry.config.place().bus == ROOT_BUS {
            return Err(QmpError::generic(format!(
                "Bus '{ROOT_BUS}' does not support hotplugging: device '{id}' stays for as long as the machine runs; only \
                 devices behind a pcie-root-port can be removed"
            )));
        }
        if entry.state == State::Adding {
            return Err(QmpError::generic(format!(
                "Device '{id}' is being added: its device_add has not returned yet"
            )));
        }
        let (jobs, device) = (self.jobs.clone(), entry.key());
        // The worker takes it, so that it is in order with what happens to the device.
        Ok(Box::new(move || {
            let _taken = jobs.send(Job::Remove { device, force });
        }))
    }

    /// Something happened to a device. Nothing if it is not there any more.
    pub(super) fn on(self: &Arc<Self>, device: &DeviceKey, event: Event) {
        let decided = self.table.with(device, |entry| {
            let (state, actions) = entry.state.on(event);
            entry.state = state;
            (state, actions)
        });
        let Some((state, actions)) = decided else {
            return;
        };
        if state == State::Gone {
            self.table.forget(device);
        }
        for action in actions {
            self.carry_out(device, *action);
        }
    }

    /// The same for all devices behind a port.
    pub(super) fn each_behind(self: &Arc<Self>, port: &str, event: Event) {
        for id in self.machine.pci.devices_behind(port) {
            if let Some(device) = self.table.key(&id) {
                self.on(&device, event);
            }
        }
    }

    /// The device or its server is gone, and with it all that share its slot: that is one thing to the guest.
    pub(super) fn lost(self: &Arc<Self>, device: &DeviceKey, cause: &str) {
        let seat = self.seat(device);
        for other in self.sharing_slot(device) {
            let cause = format!("device {} in the same slot: {cause}", device.id());
            self.note(&other, cause);
            self.on(&other, Event::Lost(self.policy(&other), seat));
        }
        self.note(device, cause.to_owned());
        self.on(device, Event::Lost(self.policy(device), seat));
    }

    /// The host wants the device back, and so all that share its slot.
    pub(super) fn host_asks(self: &Arc<Self>, device: &DeviceKey) {
        let seat = self.seat(device);
        for device in self.sharing_slot(device).iter().chain([device]) {
            self.note(
                device,
                "the host wants it back (its driver is being unbound)".to_owned(),
            );
            self.on(device, Event::HostAsks(seat));
        }
    }

    /// The guest has turned the device on.
    pub(super) fn ready(&self, device: &DeviceKey) {
        if self.table.key(device.id()).as_ref() == Some(device) {
            let device = device.id().to_owned();
            (self.machine.tell)(&events::Event::DeviceReady { device });
        }
    }

    /// What became of the request to release the device.
    pub(super) fn released(self: &Arc<Self>, device: &DeviceKey, release: Release) {
        match release {
            Release::Done => {
                let may_restart = self.may_restart(device);
                if !may_restart && self.is_to_restart(device) {
                    let span = self.table.span(device);
                    tracing::error!(parent: &span, "lost too often within a minute: it is removed");
                }
                self.on(device, Event::Released { may_restart });
            }
            Release::Held(reason) => {
                self.note(device, reason);
                self.on(device, Event::HeldUp);
            }
        }
    }

    fn carry_out(self: &Arc<Self>, device: &DeviceKey, action: Action) {
        let (pci, id) = (&self.machine.pci, device.id());
        let tell = |event: &dyn Fn(String) -> events::Event| {
            (self.machine.tell)(&event(id.to_owned()));
        };
        match action {
            Action::AskGuest => drop(pci.slot_event(id, slot::Event::EjectRequested)),
            Action::Take => drop(pci.slot_event(id, slot::Event::Vanished)),
            Action::LetGo => {
                let (own, device) = (Arc::clone(self), device.clone());
                self.tasks.add(move || own.let_go(&device));
            }
            Action::AskSupervisor => self.ask_supervisor(device),
            Action::Restart => self.restart(device),
            Action::StopMachine => {
                let own = Arc::clone(self);
                self.tasks.add(move || {
                    if let Some(stop) = own.stop.get() {
                        stop();
                    }
                });
            }
            Action::TellLost => {
                let cause = self.noted(device);
                tell(&|device| events::Event::DeviceLost {
                    device,
                    cause: cause.clone(),
                });
            }
            Action::TellRecalled => tell(&|device| events::Event::DeviceRecalled { device }),
            Action::TellHeld => {
                let cause = self.noted(device);
                tracing::error!(parent: &self.table.span(device), cause, "the host cannot use the device yet");
                tell(&|device| events::Event::DeviceHeld {
                    device,
                    cause: cause.clone(),
                });
            }
            Action::TellGuestError => {
                tell(&|device| events::Event::DeviceUnplugGuestError { device });
            }
            Action::TellDeleted => tell(&|device| events::Event::DeviceDeleted { device }),
        }
    }

    /// Takes everything of the device away from the guest; then its server may end.
    fn let_go(self: &Arc<Self>, device: &DeviceKey) {
        let taken = self.table.with(device, |entry| {
            let function = match entry.state {
                State::Dead => entry.function.clone(),
                State::Adding
                | State::Present
                | State::Recalled
                | State::Lost(_)
                | State::Releasing(_)
                | State::Held(_)
                | State::Restarting
                | State::Unwanted
                | State::Gone => entry.function.take(),
            };
            (function, std::mem::take(&mut entry.watches), entry.state)
        });
        let Some((function, watches, state)) = taken else {
            return;
        };
        // 1. Its end is no loss.
        for token in watches {
            self.machine.events.remove(token);
        }
        // 2. BAR slots and mappings gone, interrupts off, guest memory taken back, connection closed. A server of somebody else's
        //    is asked to forget guest memory, which it can only answer once it has reset the device.
        let of_others = self.is_of_others(device);
        let detached = function.map_or(Ok(()), |function| {
            if of_others {
                function.finish_reset();
            }
            function.detach()
        });
        // 3. Its place is free, where a device can leave it.
        if state != State::Dead {
            self.machine.pci.unplug(device.id());
        }
        // 4. Its server resets the device and ends; the group can be opened again. A server of somebody else's goes on: there
        //    only its word says that guest memory is unmapped.
        match detached {
            Err(reason) if of_others => {
                let _taken = self
                    .jobs
                    .send(Job::Release(device.clone(), Release::Held(reason)));
            }
            Ok(()) | Err(_) => self.ask_supervisor(device),
        }
    }

    fn ask_supervisor(&self, device: &DeviceKey) {
        let Some(supervisor) = &self.machine.supervisor else {
            let _taken = self.jobs.send(Job::Release(device.clone(), Release::Done));
            return;
        };
        let _taken = self.jobs.send(Job::Asked(device.clone()));
        let (jobs, asked) = (self.jobs.clone(), device.clone());
        supervisor.release(device.id(), move |release| {
            let _taken = jobs.send(Job::Release(asked.clone(), release));
        });
    }

    fn restart(self: &Arc<Self>, device: &DeviceKey) {
        let Some((device, config)) = self.table.begin_anew(device) else {
            return;
        };
        let own = Arc::clone(self);
        self.tasks.add(move || own.attach_again(&device, &config));
    }

    /// Whether a lost device was not restarted too often.
    fn is_to_restart(&self, device: &DeviceKey) -> bool {
        let state = self.table.with(device, |entry| entry.state);
        matches!(
            state,
            Some(State::Releasing(then) | State::Held(then)) if then == lifecycle::After::Restart
        )
    }

    fn may_restart(&self, device: &DeviceKey) -> bool {
        let now = Instant::now();
        let often = self.table.with(device, |entry| {
            entry
                .restarts
                .retain(|at| now.duration_since(*at) < RESTART_WINDOW);
            entry.restarts.len()
        });
        often.is_some_and(|often| often < MAX_RESTARTS)
    }

    fn seat(&self, device: &DeviceKey) -> Seat {
        match self.machine.pci.phase_of(device.id()) {
            None => Seat::RootBus,
            Some(Phase::Present | Phase::Queued) => Seat::Kept,
            Some(Phase::EjectWaiting | Phase::Ejecting | Phase::EjectOverdue) => Seat::Asked,
            Some(Phase::Empty | Phase::Gone) => Seat::Left,
        }
    }

    /// The other functions of its slot, behind a root port.
    fn sharing_slot(&self, device: &DeviceKey) -> Vec<DeviceKey> {
        let bus = self
            .table
            .with(device, |entry| entry.config.place().bus.clone());
        let behind = bus.map_or_else(Vec::new, |bus| self.machine.pci.devices_behind(&bus));
        behind
            .iter()
            .filter(|id| *id != device.id())
            .filter_map(|id| self.table.key(id))
            .collect()
    }

    /// A device that shares its slot is not restarted: the slot takes one function while the guest runs.
    fn policy(&self, device: &DeviceKey) -> OnFailure {
        let policy = self.table.with(device, |entry| {
            let common = entry.config.vfio();
            common.map(|common| common.on_failure)
        });
        match policy.flatten().unwrap_or(OnFailure::Remove) {
            OnFailure::Restart if !self.sharing_slot(device).is_empty() => OnFailure::Remove,
            policy @ (OnFailure::Remove | OnFailure::Restart | OnFailure::Stop) => policy,
        }
    }

    fn is_of_others(&self, device: &DeviceKey) -> bool {
        let of_others = self.table.with(device, |entry| {
            matches!(entry.config, DeviceConfig::VfioUserPci(_))
        });
        of_others.unwrap_or(false)
    }

    /// Remembers why the device is lost or held.
    fn note(&self, device: &DeviceKey, cause: String) {
        self.table.with(device, |entry| entry.cause = Some(cause));
    }

    /// What was remembered last.
    fn noted(&self, device: &DeviceKey) -> String {
        let cause = self.table.with(device, |entry| entry.cause.clone());
        cause.flatten().unwrap_or_default()
    }
}
