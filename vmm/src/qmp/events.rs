//! What every QMP client is told unasked.
//!
//! Spec: QMP §2.5 and QEMU's qapi/run-state.json, qapi/qdev.json for the names that QEMU has. BULKHEAD_* are ours.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Why the machine stops or resets, as QEMU's ShutdownCause spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered off.
    GuestShutdown,
    /// The guest reset the machine.
    GuestReset,
    /// A processor could not go on (triple fault, KVM error).
    GuestPanic,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// SIGTERM, SIGINT or SIGHUP.
    HostSignal,
    /// Ctrl-A x on the terminal.
    HostUi,
    /// The host refused something that the machine cannot go on without.
    HostError,
}

impl ShutdownCause {
    /// Every cause, as it is spelled on the wire.
    pub const NAMES: [&'static str; 8] = [
        "guest-shutdown",
        "guest-reset",
        "guest-panic",
        "host-qmp-quit",
        "host-qmp-system-reset",
        "host-signal",
        "host-ui",
        "host-error",
    ];

    fn name(self) -> &'static str {
        match self {
            ShutdownCause::GuestShutdown => "guest-shutdown",
            ShutdownCause::GuestReset => "guest-reset",
            ShutdownCause::GuestPanic => "guest-panic",
            ShutdownCause::HostQmpQuit => "host-qmp-quit",
            ShutdownCause::HostQmpSystemReset => "host-qmp-system-reset",
            ShutdownCause::HostSignal => "host-signal",
            ShutdownCause::HostUi => "host-ui",
            ShutdownCause::HostError => "host-error",
        }
    }

    fn is_from_guest(self) -> bool {
        match self {
            ShutdownCause::GuestShutdown
            | ShutdownCause::GuestReset
            | ShutdownCause::GuestPanic => true,
            ShutdownCause::HostQmpQuit
            | ShutdownCause::HostQmpSystemReset
            | ShutdownCause::HostSignal
            | ShutdownCause::HostUi
            | ShutdownCause::HostError => false,
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The processors stopped.
    Stop,
    /// They run again.
    Resume,
    /// The machine was reset.
    Reset(ShutdownCause),
    /// The machine ends.
    Shutdown(ShutdownCause),
    /// The guest was asked to power off.
    Powerdown,
    /// The device is gone and free: the host can use it at once.
    DeviceDeleted {
        /// The device's id.
        device: String,
    },
    /// The guest refused to let go of the device, or did not answer.
    DeviceUnplugGuestError {
        /// The device's id.
        device: String,
    },
    /// The guest has turned the device on.
    DeviceReady {
        /// The device's id.
        device: String,
    },
    /// The device or its server is gone.
    DeviceLost {
        /// The device's id.
        device: String,
        /// Why.
        cause: String,
    },
    /// The host wants the device back, and the guest is asked for it.
    DeviceRecalled {
        /// The device's id.
        device: String,
    },
    /// The device is out of the guest, and the host cannot use it yet.
    DeviceHeld {
        /// The device's id.
        device: String,
        /// What keeps it.
        cause: String,
    },
}

impl Event {
    /// Every event's name.
    pub const NAMES: [&'static str; 11] = [
        "STOP",
        "RESUME",
        "RESET",
        "SHUTDOWN",
        "POWERDOWN",
        "DEVICE_DELETED",
        "DEVICE_UNPLUG_GUEST_ERROR",
        "BULKHEAD_DEVICE_READY",
        "BULKHEAD_DEVICE_LOST",
        "BULKHEAD_DEVICE_RECALLED",
        "BULKHEAD_DEVICE_HELD",
    ];

    /// The event as it is sent, stamped with `now`.
    pub fn to_json(&self, now: SystemTime) -> Value {
        let (name, data) = self.parts();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp =
            json!({ "seconds": since.as_secs(), "microseconds": since.subsec_micros() });
        match data {
            Some(data) => json!({ "event": name, "data": data, "timestamp": timestamp }),
            None => json!({ "event": name, "timestamp": timestamp }),
        }
    }

    fn parts(&self) -> (&'static str, Option<Value>) {
        let of_device = |device: &str| Some(json!({ "device": device, "path": device }));
        let of_cause = |cause: ShutdownCause| {
            Some(json!({ "guest": cause.is_from_guest(), "reason": cause.name() }))
        };
        match self {
            Event::Stop => ("STOP", None),
            Event::Resume => ("RESUME", None),
            Event::Reset(cause) => ("RESET", of_cause(*cause)),
            Event::Shutdown(cause) => ("SHUTDOWN", of_cause(*cause)),
            Event::Powerdown => ("POWERDOWN", None),
            Event::DeviceDeleted { device } => ("DEVICE_DELETED", of_device(device)),
            Event::DeviceUnplugGuestError { device } => {
                ("DEVICE_UNPLUG_GUEST_ERROR", of_device(device))
            }
            Event::DeviceReady { device } => ("BULKHEAD_DEVICE_READY", of_device(device)),
            Event::DeviceLost { device, cause } => (
                "BULKHEAD_DEVICE_LOST",
                Some(json!({ "device": device, "path": device, "cause": cause })),
            ),
            Event::DeviceRecalled { device } => ("BULKHEAD_DEVICE_RECALLED", of_device(device)),
            Event::DeviceHeld { device, cause } => (
                "BULKHEAD_DEVICE_HELD",
                Some(json!({ "device": device, "path": device, "cause": cause })),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::qmp::shapes;

    #[test]
    fn every_event_is_named_and_has_the_data_that_the_schema_says() {
        let (device, cause) = (String::from("net"), String::from("gone"));
        let causes = [
            ShutdownCause::GuestShutdown,
            ShutdownCause::GuestReset,
            ShutdownCause::GuestPanic,
            ShutdownCause::HostQmpQuit,
            ShutdownCause::HostQmpSystemReset,
            ShutdownCause::HostSignal,
            ShutdownCause::HostUi,
            ShutdownCause::HostError,
        ];
        let mut events = vec![
            Event::Stop,
            Event::Resume,
            Event::Powerdown,
            Event::DeviceDeleted {
                device: device.clone(),
            },
            Event::DeviceUnplugGuestError {
                device: device.clone(),
            },
            Event::DeviceReady {
                device: device.clone(),
            },
            Event::DeviceRecalled {
                device: device.clone(),
            },
            Event::DeviceHeld {
                device: device.clone(),
                cause: cause.clone(),
            },
            Event::DeviceLost { device, cause },
        ];
        events.extend(causes.map(Event::Reset));
        events.extend(causes.map(Event::Shutdown));
        let mut seen = BTreeSet::new();
        for event in events {
            let (name, data) = event.parts();
            seen.insert(name);
            let data = data.unwrap_or_else(|| json!({}));
            shapes::event_data(name).check(&data).unwrap();
        }
        assert_eq!(seen, BTreeSet::from(Event::NAMES));
    }
}
