//! What the operator commands and asks by QMP: the run state, the power button, the end, and what the machine consists of.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sandbox::profile::{Enforced, Mode};
use serde_json::{Value, json};

use super::ExitReason;
use super::processors::Processors;
use super::query_pci;
use crate::event_loop::EventLoop;
use crate::hotplug::Devices;
use crate::machine::power::{Power, StopRequest, StopRequests};
use crate::pci::PciHost;
use crate::qmp::errors::QmpError;
use crate::qmp::events::Event;
use crate::qmp::machine::{After, Cpu, Inventory, RunControl, RunState};
use crate::qmp::server::Server;

/// Starting and stopping.
pub(super) struct Control {
    pub(super) processors: Arc<Processors>,
    pub(super) stop: Arc<StopRequests>,
    pub(super) power: Arc<Power>,
    pub(super) events: Arc<EventLoop>,
    pub(super) ended: Arc<Mutex<Option<ExitReason>>>,
    pub(super) qmp: Server,
}

impl Control {
    fn not_ending(&self) -> Result<(), QmpError> {
        match self.processors.state() {
            RunState::Running | RunState::Paused => Ok(()),
            RunState::Shutdown => Err(ending()),
        }
    }
}

fn ending() -> QmpError {
    QmpError::generic("The machine is ending")
}

impl RunControl for Control {
    fn state(&self) -> RunState {
        self.processors.state()
    }

    fn stop(&self) -> Result<(), QmpError> {
        let held = self.processors.hold();
        if held.is_ending() {
            return Err(ending());
        }
        let stopped = held.stop().map_err(|error| QmpError::from_chain(&error))?;
        // Under the lock: events come in the order of what they tell.
        if stopped {
            self.qmp.send(&Event::Stop);
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), QmpError> {
        let held = self.processors.hold();
        if held.is_ending() {
            return Err(ending());
        }
        if held.cont() {
            self.qmp.send(&Event::Resume);
        }
        Ok(())
    }

    fn reset(&self) -> Result<After, QmpError> {
        self.not_ending()?;
        let stop = Arc::clone(&self.stop);
        Ok(Box::new(move || stop.request(StopRequest::OperatorReset)))
    }

    fn power_down(&self) -> Result<(), QmpError> {
        self.not_ending()?;
        self.power.press_button();
        self.qmp.send(&Event::Powerdown);
        Ok(())
    }

    fn quit(&self) -> After {
        let (ended, events) = (Arc::clone(&self.ended), Arc::clone(&self.events));
        Box::new(move || {
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ExitReason::Quit);
            events.stop();
        })
    }
}

/// What the machine consists of.
pub(super) struct Parts {
    pub(super) name: Option<String>,
    pub(super) memory_bytes: u64,
    pub(super) processors: Arc<Processors>,
    pub(super) pci: Arc<PciHost>,
    pub(super) devices: Arc<Devices>,
    /// How this process is confined; there before the first client.
    pub(super) sandbox: Arc<OnceLock<Value>>,
}

impl Inventory for Parts {
    fn name(&self) -> Option<String> {
        self.name.clone()
    }

    fn cpus(&self) -> Vec<Cpu> {
        self.processors.cpus()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn kvm(&self) -> Value {
        self.devices.report_kvm()
    }

    fn pci(&self) -> Value {
        query_pci::answer(&self.pci.functions())
    }

    fn slots(&self) -> Value {
        self.devices.report_slots()
    }

    fn vfio_user(&self) -> Value {
        self.devices.report_devices()
    }

    fn sandbox(&self) -> Value {
        self.sandbox.get().cloned().unwrap_or(Value::Null)
    }
}

/// As `query-sandbox` answers: mechanism by mechanism.
pub(super) fn describe(mode: Mode, enforced: &Enforced) -> Value {
    let table = |rows: &[(&'static str, String)]| -> Value {
        let rows = rows
            .iter()
            .map(|(name, what)| ((*name).to_owned(), json!(what)));
        Value::Object(rows.collect())
    };
    json!({
        "mode": mode.to_string(),
        "enforced": table(&enforced.active),
        "missing": table(&enforced.missing),
    })
}
