//! What `query-hotplug` and `query-vfio-user` answer.

use serde_json::{Map, Value, json};

use super::add::source_name;
use super::devices::{Devices, Entry, State};
use crate::one_line::one_line;
use crate::pci::SlotState;
use crate::pci::slot::Phase;

impl Devices {
    /// Every slot: what is in it, how far it is, and what it waits for.
    pub fn report_slots(&self) -> Value {
        self.machine.pci.slots().iter().map(slot).collect()
    }

    /// Every passed device.
    pub fn report_devices(&self) -> Value {
        let entries: Vec<(String, Entry)> = self
            .table()
            .iter()
            .map(|(id, entry)| (id.clone(), entry.clone()))
            .collect();
        entries
            .iter()
            .map(|(id, entry)| device(id, entry))
            .collect()
    }
}

fn slot(slot: &SlotState) -> Value {
    let (state, waits_for) = match slot.phase {
        Phase::Empty if slot.devices.is_empty() => ("empty", None),
        Phase::Empty => ("releasing", Some("the device to be let go of")),
        Phase::Gone if slot.devices.is_empty() => (
            "gone",
            Some("the guest to turn the slot off after its device went"),
        ),
        Phase::Gone => ("releasing", Some("the device to be let go of")),
        Phase::Queued => (
            "queued",
            Some("the guest to turn the slot off after the device before"),
        ),
        Phase::Present if slot.link_active => ("present", None),
        Phase::Present => ("present", Some("the guest to turn the slot on")),
        Phase::EjectWaiting => (
            "eject-waiting",
            Some("the guest to finish what it does with the slot; then it is asked"),
        ),
        Phase::Ejecting => ("ejecting", Some("the guest to let go")),
        Phase::EjectOverdue => (
            "eject-overdue",
            Some("the guest to let go; the operator was told that it is late"),
        ),
    };
    json!({
        "bus": slot.port,
        "state": state,
        "waits-for": waits_for,
        "powered": slot.link_active,
        "guest-listens": slot.guest_listens,
        "devices": slot.devices,
    })
}

fn device(id: &str, entry: &Entry) -> Value {
    let function = entry.function.as_ref();
    let lost = function.and_then(|function| function.lost());
    let state = match (entry.state, &lost) {
        (State::Attaching, _) => "attaching",
        (State::Releasing, _) => "releasing",
        (State::Present, Some(_)) => "lost",
        (State::Present, None) => "present",
    };
    let counters = function.map(|function| function.counters());
    let messages: Map<String, Value> = counters
        .iter()
        .flat_map(|counters| counters.by_command())
        .map(|(command, count)| (command.to_string(), count.into()))
        .collect();
    json!({
        "device": id,
        "peer": source_name(&entry.config),
        "state": state,
        "cause": lost.map(|cause| one_line(&cause)),
        "mapped-areas": function.map_or(0, |function| function.mapped_areas()),
        "messages": messages,
    })
}
