//! What a person who watches for attacks wants to see: one target, and the same fields in every event.
//!
//! | Field | Content |
//! |---|---|
//! | `event` | what happened: the names in [`Event`] |
//! | `device` | the id of the device, or `-` |
//! | `pci` | its PCI address on the host, or `-` |
//! | `subject` | who or what did it: a command, a user, a process, a request |
//! | `detail` | what was wrong, or why |

use tracing::Level;

use crate::device::UNKNOWN;

/// The target of the events.
pub const TARGET: &str = "bulkhead::security";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request or a reply was not as it may be: a peer that is broken, or taken over.
    MessageRefused,
    /// A process may not be a client.
    ClientRefused,
    /// The VMM asked for a device that its policy does not allow, or that cannot be had.
    DeviceRefused,
    /// The VMM asked for an image that its policy does not allow, or for more than it may have.
    ImageRefused,
    /// The VMM does not keep to the protocol with its supervisor.
    ControlBroken,
    /// The guest has lost a device.
    DeviceLost,
    /// A device server died.
    ServerDied,
    /// A process of the VM was killed for a system call that its role does not allow.
    SandboxBroken,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 8] = [
        Event::MessageRefused,
        Event::ClientRefused,
        Event::DeviceRefused,
        Event::ImageRefused,
        Event::ControlBroken,
        Event::DeviceLost,
        Event::ServerDied,
        Event::SandboxBroken,
    ];

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Event::MessageRefused => "message-refused",
            Event::ClientRefused => "client-refused",
            Event::DeviceRefused => "device-refused",
            Event::ImageRefused => "image-refused",
            Event::ControlBroken => "control-broken",
            Event::DeviceLost => "device-lost",
            Event::ServerDied => "server-died",
            Event::SandboxBroken => "sandbox-broken",
        }
    }

    /// Something is lost, not just refused.
    fn level(self) -> Level {
        match self {
            Event::MessageRefused
            | Event::ClientRefused
            | Event::DeviceRefused
            | Event::ImageRefused => Level::WARN,
            Event::ControlBroken | Event::DeviceLost | Event::ServerDied | Event::SandboxBroken => {
                Level::ERROR
            }
        }
    }

    /// Writes the event. `device` is an id and a PCI address.
    pub fn report(self, device: Option<(&str, &str)>, subject: &str, detail: &str, message: &str) {
        let event = self.name();
        let (device, pci) = device.unwrap_or((UNKNOWN, UNKNOWN));
        // Outside of every span: the device is named once.
        if self.level() == Level::ERROR {
            tracing::error!(target: TARGET, parent: None, event, device, pci, subject, detail, "{message}");
        } else {
            tracing::warn!(target: TARGET, parent: None, event, device, pci, subject, detail, "{message}");
        }
    }
}
