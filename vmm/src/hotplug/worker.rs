//! One thread that does what slots decide, and keeps their timers. Releases may take long: `releases` has threads for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::devices::Devices;
use crate::config::device::UNPLUG_TIMEOUT_S;
use crate::pci::slot::Action;
use crate::qmp::events::Event;

/// How long the worker sleeps when no timer runs.
const IDLE: Duration = Duration::from_secs(3600);

/// What the worker is told.
#[derive(Debug)]
pub(super) enum Job {
    /// The slot of this port has decided something.
    Slot {
        /// The port.
        port: String,
        /// What.
        action: Action,
    },
    /// This device's connection has ended.
    Lost(String),
    /// The guest has turned this device on.
    Ready(String),
}

/// Works until the machine is gone.
pub(super) fn run(devices: &Arc<Devices>, jobs: &Receiver<Job>) {
    let mut timers: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let next = timers.values().min().copied();
        let patience = next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        match jobs.recv_timeout(patience) {
            Ok(job) => take(devices, job, &mut timers),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        let fired: Vec<String> = timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(port, _)| port.clone())
            .collect();
        for port in fired {
            timers.remove(&port);
            devices.machine.pci.eject_timed_out(&port);
        }
    }
}

fn take(devices: &Arc<Devices>, job: Job, timers: &mut BTreeMap<String, Instant>) {
    match job {
        Job::Lost(id) => devices.lost(&id),
        Job::Ready(device) => (devices.machine.tell)(&Event::DeviceReady { device }),
        Job::Slot { port, action } => match action {
            Action::StartTimer => {
                let patience = patience(devices, &port);
                timers.insert(port, Instant::now() + patience);
            }
            Action::StopTimer => {
                timers.remove(&port);
            }
            Action::ReportGuestError => {
                for device in devices.machine.pci.devices_behind(&port) {
                    (devices.machine.tell)(&Event::DeviceUnplugGuestError { device });
                }
            }
            Action::Release => release(devices, &port),
            // The topology has done these.
            Action::Interrupt | Action::PowerOn | Action::PowerOff => {}
        },
    }
}

fn release(devices: &Arc<Devices>, port: &str) {
    for id in devices.machine.pci.devices_behind(port) {
        // The threads live as long as the machine.
        let _taken = devices.releases.send(id);
    }
}

/// The longest `unplug-timeout` of the devices behind a port.
fn patience(devices: &Devices, port: &str) -> Duration {
    let behind = devices.machine.pci.devices_behind(port);
    let table = devices.table();
    let seconds = behind
        .iter()
        .filter_map(|id| Some(table.get(id)?.config.vfio()?.unplug_timeout_s))
        .max();
    Duration::from_secs(seconds.unwrap_or(UNPLUG_TIMEOUT_S).into())
}
