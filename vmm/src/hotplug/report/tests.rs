use std::convert::Infallible;

use super::*;
use crate::config::DeviceConfig;
use crate::hotplug::lifecycle::After;
use crate::hotplug::table::Table;
use crate::qmp::shapes;

fn shown(phase: Phase, devices: &[&str]) -> Value {
    let answer = json!([slot(&SlotState {
        port: "pcie.1".to_owned(),
        phase,
        link_active: false,
        guest_listens: true,
        devices: devices.iter().map(|id| (*id).to_owned()).collect(),
    })]);
    shapes::SLOTS.check(&answer).unwrap();
    answer[0].clone()
}

#[test]
fn every_phase_of_a_slot_is_told_as_the_schema_says() {
    for (phase, state) in [
        (Phase::Empty, "releasing"),
        (Phase::Gone, "releasing"),
        (Phase::Queued, "queued"),
        (Phase::Present, "present"),
        (Phase::EjectWaiting, "eject-waiting"),
        (Phase::Ejecting, "ejecting"),
        (Phase::EjectOverdue, "eject-overdue"),
    ] {
        let answer = shown(phase, &["net"]);
        assert_eq!(answer["state"], state);
        assert!(answer["waits-for"].is_string(), "{answer}");
    }
    let empty = shown(Phase::Empty, &[]);
    assert_eq!(empty["state"], "empty");
    assert_eq!(empty.get("waits-for"), None);
    assert_eq!(shown(Phase::Gone, &[])["state"], "gone");
}

#[test]
fn every_state_of_a_device_is_told_as_the_schema_says() {
    let text = "vfio-user-pci,socket=/run/x.sock,id=net,bus=pcie.1,addr=0";
    for (state, told) in [
        (State::Adding, "attaching"),
        (State::Present, "present"),
        (State::Recalled, "recalled"),
        (State::Lost(After::Restart), "lost"),
        (State::Dead, "lost"),
        (State::Releasing(After::Delete), "releasing"),
        (State::Held(After::Delete), "held"),
        (State::Restarting, "attaching"),
    ] {
        let table = Table::default();
        let config = DeviceConfig::parse(text).unwrap();
        let Ok(key) = table.insert(config, state, |_| Ok::<(), Infallible>(()));
        table.with(&key, |entry| entry.cause = Some("it is so".to_owned()));
        let answer = json!([device(&table.all()[0])]);
        shapes::VFIO_USER.check(&answer).unwrap();
        assert_eq!(answer[0]["state"], told);
        assert_eq!(answer[0]["cause"], "it is so");
        assert_eq!(answer[0]["peer"], "socket /run/x.sock");
    }
}
