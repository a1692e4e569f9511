use std::sync::Mutex;

use super::super::super::bar::{BarKind, BarRequest};
use super::super::tests::{Machine, Recorder};
use super::*;

/// Notes what slots decide.
#[derive(Default)]
struct Noted {
    actions: Mutex<Vec<(String, Action)>>,
    lines: Mutex<Vec<(u32, bool)>>,
}

impl SlotServices for Noted {
    fn send_msi(&self, _: u64, _: u32) {}
    fn set_line(&self, gsi: u32, level: bool) {
        self.lines.lock().unwrap().push((gsi, level));
    }
    fn carry_out(&self, port: &str, action: Action) {
        self.actions.lock().unwrap().push((port.to_owned(), action));
    }
}

/// Root port `pcie.1`, programmed with its default windows.
fn host_with_port() -> Arc<PciHost> {
    let host = Machine::with_port().host;
    host.program().unwrap();
    host
}

fn behind(bus: &str) -> Place {
    Place {
        bus: bus.to_owned(),
        slot: 0,
        function: 0,
        multifunction: false,
    }
}

fn memory_bar(size: u64) -> BarRequest {
    BarRequest {
        index: 0,
        kind: BarKind::Memory32 {
            prefetchable: false,
        },
        size,
    }
}

#[test]
fn plug_on_the_root_bus_is_refused() {
    let host = host_with_port();
    let error = host.check_hot_plug("net", &behind(ROOT_BUS)).unwrap_err();
    assert_eq!(
        error,
        HotPlugError::RootBus {
            id: "net".to_owned()
        }
    );
}

#[test]
fn plug_of_function_1_is_refused() {
    let host = host_with_port();
    let place = Place {
        function: 1,
        ..behind("pcie.1")
    };
    let error = host.check_hot_plug("net", &place).unwrap_err();
    assert_eq!(
        error,
        HotPlugError::NotFunctionZero {
            id: "net".to_owned(),
            devfn: 1
        }
    );
}

#[test]
fn second_device_in_a_slot_is_refused_by_the_name_of_the_first() {
    let host = host_with_port();
    host.hot_plug(&behind("pcie.1"), Recorder::new("a", &[]))
        .unwrap();
    let error = host
        .hot_plug(&behind("pcie.1"), Recorder::new("b", &[]))
        .unwrap_err();
    assert!(matches!(error, HotPlugError::SlotInUse { owner, .. } if owner == "a"));
}

#[test]
fn device_too_large_for_the_window_is_refused_with_the_size_it_needs() {
    let host = host_with_port();
    let error = host
        .hot_plug(
            &behind("pcie.1"),
            Recorder::new("gpu", &[memory_bar(16 << 20)]),
        )
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("needs 0x1000000 bytes of 32-bit memory")
            && text.contains("start the VM with mem-reserve=0x1000000"),
        "{text}"
    );
    assert_eq!(host.slots()[0].devices, Vec::<String>::new());
}

#[test]
fn device_too_large_for_any_window_of_a_port_is_sent_to_the_root_bus() {
    let host = host_with_port();
    let gpu = Recorder::new("gpu", &[memory_bar(1 << 30)]);
    let text = host.hot_plug(&behind("pcie.1"), gpu).unwrap_err();
    assert!(
        text.to_string()
            .contains("more than a port can have: pass it on pcie.0"),
        "{text}"
    );
}

#[test]
fn io_bar_behind_a_port_without_io_ports_is_refused_with_the_reserve_it_needs() {
    let machine = Machine::with_port();
    for number in 2..18 {
        machine.add_port(number, None);
    }
    machine.add_port(18, Some(0x1000));
    let host = machine.host;
    host.program().unwrap();
    let serial = || {
        let ports = BarRequest {
            index: 0,
            kind: BarKind::Io,
            size: 8,
        };
        Recorder::new("serial", &[ports])
    };
    let error = host.hot_plug(&behind("pcie.2"), serial()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("start the VM with io-reserve=0x1000"),
        "{error}"
    );
    host.hot_plug(&behind("pcie.18"), serial()).unwrap();
}

#[test]
fn forced_removal_of_a_cold_device_is_released_once() {
    let host = host_with_port();
    let noted = Arc::new(Noted::default());
    host.connect_slots(Arc::<Noted>::clone(&noted));
    host.plug(&behind("pcie.1"), Recorder::new("net", &[]))
        .unwrap();
    assert!(host.slot_event("net", Event::Vanished));
    assert!(host.slot_event("net", Event::Vanished));
    assert_eq!(
        *noted.actions.lock().unwrap(),
        [("pcie.1".to_owned(), Action::Release)]
    );
    assert!(host.unplug("net").is_some());
    assert!(!host.slot_event("net", Event::Vanished));
}
