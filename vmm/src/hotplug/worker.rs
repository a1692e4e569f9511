//! One thread that hears of everything that happens to devices, decides by `lifecycle`, and keeps the timers. It never waits for
//! a device server, the guest or the supervisor: what does has threads of its own (`tasks`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::devices::Devices;
use super::lifecycle::Event;
use super::supervisor::Release;
use super::table::DeviceKey;
use crate::config::device::UNPLUG_TIMEOUT_S;
use crate::pci::slot::Action;

/// From the request to release a device to an answer. Source: the supervisor gives a device server 75 s to end, 10 s once it is
/// killed, and as long to the mappings that are left of it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(180);
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
    /// This device or its server is gone.
    Lost {
        /// Which.
        device: DeviceKey,
        /// Why, for the operator.
        cause: String,
    },
    /// The host wants this device back.
    HostAsks(DeviceKey),
    /// The guest has turned this device on.
    Ready(DeviceKey),
    /// The operator wants this device out.
    Remove {
        /// Which.
        device: DeviceKey,
        /// Without asking the guest.
        force: bool,
    },
    /// The supervisor is asked to release this device.
    Asked(DeviceKey),
    /// What became of that.
    Release(DeviceKey, Release),
}

/// When something is late.
#[derive(Debug, Default)]
struct Timers {
    /// The guest, with the slot of this port.
    unplug: BTreeMap<String, Instant>,
    /// The supervisor, with this device.
    release: BTreeMap<DeviceKey, Instant>,
}

/// Works until the machine is gone.
pub(super) fn run(devices: &Arc<Devices>, jobs: &Receiver<Job>) {
    let mut timers = Timers::default();
    loop {
        let next = timers.next();
        let patience = next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        match jobs.recv_timeout(patience) {
            Ok(job) => take(devices, job, &mut timers),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for port in fired(&mut timers.unplug, now) {
            devices.machine.pci.eject_timed_out(&port);
        }
        for device in fired(&mut timers.release, now) {
            let reason = format!(
                "the supervisor has not answered for {} s",
                RELEASE_DEADLINE.as_secs()
            );
            devices.released(&device, Release::Held(reason));
        }
    }
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        let all = self.unplug.values().chain(self.release.values());
        all.min().copied()
    }
}

/// Takes out what is due.
fn fired<K: Clone + Ord>(timers: &mut BTreeMap<K, Instant>, now: Instant) -> Vec<K> {
    let due: Vec<K> = timers
        .iter()
        .filter(|(_, at)| **at <= now)
        .map(|(key, _)| key.clone())
        .collect();
    for key in &due {
        timers.remove(key);
    }
    due
}

fn take(devices: &Arc<Devices>, job: Job, timers: &mut Timers) {
    match job {
        Job::Slot { port, action } => match action {
            Action::StartTimer => {
                let at = Instant::now() + patience(devices, &port);
                timers.unplug.insert(port, at);
            }
            Action::StopTimer => {
                timers.unplug.remove(&port);
            }
            Action::ReportGuestError => devices.each_behind(&port, Event::GuestError),
            Action::Release => devices.each_behind(&port, Event::Out),
            // The topology has done these.
            Action::Interrupt | Action::PowerOn | Action::PowerOff => {}
        },
        Job::Lost { device, cause } => devices.lost(&device, &cause),
        Job::HostAsks(device) => devices.host_asks(&device),
        Job::Ready(device) => devices.ready(&device),
        Job::Remove { device, force } => {
            // The operator means the id: it may have begun anew meanwhile.
            let device = devices.table.key(device.id()).unwrap_or(device);
            devices.on(&device, Event::RemovalAsked { force });
        }
        Job::Asked(device) => {
            timers
                .release
                .insert(device, Instant::now() + RELEASE_DEADLINE);
        }
        Job::Release(device, release) => {
            timers.release.remove(&device);
            devices.released(&device, release);
        }
    }
}

/// The longest `unplug-timeout` of the devices behind a port.
fn patience(devices: &Devices, port: &str) -> Duration {
    let behind = devices.machine.pci.devices_behind(port);
    let seconds = behind
        .iter()
        .filter_map(|id| Some(devices.table.by_id(id)?.config.vfio()?.unplug_timeout_s))
        .max();
    Duration::from_secs(seconds.unwrap_or(UNPLUG_TIMEOUT_S).into())
}
