//! What `query-hotplug` and `query-vfio-user` answer.

use protocol::CommandCode;
use protocol::messages::version::TwinSocket;
use serde_json::{Value, json};

use super::add::source_name;
use super::devices::Devices;
use super::lifecycle::State;
use super::table::Entry;
use crate::one_line::one_line;
use crate::pci::SlotState;
use crate::pci::slot::Phase;
use crate::vfio_user::VfioUserFunction;
use crate::vfio_user::bars::MappedArea;
use crate::vfio_user::latency::Bucket;

impl Devices {
    /// What the machine has of KVM; passed devices take most of it.
    pub fn report_kvm(&self) -> Value {
        let vm = &self.machine.services.vm;
        json!({
            "enabled": true,
            "present": true,
            "memory-slots": vm.memory_slots().count(),
            "interrupt-routes": vm.irq().count(),
        })
    }

    /// Every slot: what is in it, how far it is, and what it waits for.
    pub fn report_slots(&self) -> Value {
        self.machine.pci.slots().iter().map(slot).collect()
    }

    /// Every passed device.
    pub fn report_devices(&self) -> Value {
        self.table.all().iter().map(device).collect()
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
    let mut answer = json!({
        "bus": slot.port,
        "state": state,
        "powered": slot.link_active,
        "guest-listens": slot.guest_listens,
        "devices": slot.devices,
    });
    put(&mut answer, "waits-for", waits_for.map(Value::from));
    answer
}

fn device(entry: &Entry) -> Value {
    let function = entry.function.as_ref();
    let lost = function.and_then(|function| function.lost());
    let state = match entry.state {
        State::Adding | State::Restarting | State::Unwanted => "attaching",
        State::Present | State::Recalled if lost.is_some() => "lost",
        State::Present => "present",
        State::Recalled => "recalled",
        State::Lost(_) | State::Dead => "lost",
        State::Releasing(_) | State::Gone => "releasing",
        State::Held(_) => "held",
    };
    let mut answer = json!({
        "device": entry.config.id(),
        "peer": source_name(&entry.config),
        "state": state,
        "mapped": function.map_or_else(Vec::new, |function| mapped(function)),
        "messages": function.map_or_else(Vec::new, |function| messages(function)),
        "latency": function.map_or_else(Vec::new, |function| latency(function)),
    });
    let cause = entry.cause.clone();
    let cause = cause.or_else(|| lost.map(|cause| one_line(&cause)));
    put(&mut answer, "cause", cause.map(Value::from));
    put(
        &mut answer,
        "capabilities",
        function.map(|function| capabilities(function)),
    );
    answer
}

fn mapped(function: &VfioUserFunction) -> Vec<Value> {
    let area = |area: MappedArea| {
        let mut answer = json!({ "bar": area.bar, "offset": area.offset, "size": area.len });
        put(&mut answer, "guest-address", area.gpa.map(Value::from));
        answer
    };
    function.mapped().into_iter().map(area).collect()
}

fn messages(function: &VfioUserFunction) -> Vec<Value> {
    let one = |(command, count): (CommandCode, u64)| json!({ "command": command.to_string(), "count": count });
    function.counters().by_command().map(one).collect()
}

fn latency(function: &VfioUserFunction) -> Vec<Value> {
    let bucket = |bucket: Bucket| {
        let mut answer = json!({ "count": bucket.count });
        put(&mut answer, "below-us", bucket.below_us.map(Value::from));
        answer
    };
    function.latency().into_iter().map(bucket).collect()
}

fn capabilities(function: &VfioUserFunction) -> Value {
    let agreed = function.capabilities();
    json!({
        "max-msg-fds": agreed.max_msg_fds,
        "max-data-xfer-size": agreed.max_data_xfer_size,
        "max-dma-maps": agreed.max_dma_maps,
        "pgsizes": agreed.pgsizes,
        "write-multiple": agreed.write_multiple,
        "twin-socket": agreed.twin_socket != TwinSocket::Unsupported,
    })
}

/// Adds a member that may be absent.
fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        members.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;
