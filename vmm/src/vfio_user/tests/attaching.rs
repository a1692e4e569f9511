//! What is attached, and what is refused without a trace.

use super::*;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn attach_gives_the_device_all_of_ram_and_touches_nothing_else() {
    let machine = Machine::new();
    let (attached, running) = machine.try_attach(FakeDevice::new(), &common());
    let _function = attached.unwrap();
    assert_eq!(
        running.take_seen(),
        [Seen::DmaMap {
            start: 0,
            len: RAM_BYTES
        }]
    );
    assert_eq!(machine.slots(), 1, "no BAR decodes yet");
}

const ALL_OF_RAM: Seen = Seen::DmaMap {
    start: 0,
    len: RAM_BYTES,
};

/// What a device has seen when it is open, and from then on until it is attached.
fn seen_of_an_early_one(machine: &Machine) -> [Vec<Seen>; 2] {
    let (socket, running) = FakeDevice::new().start();
    let begun = begin(socket, true, &common(), &machine.services).unwrap();
    let when_open = running.take_seen();
    let attached = attach(begun, &common(), &machine.services);
    let seen = [when_open, running.take_seen()];
    drop(attached.unwrap());
    seen
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_that_is_not_open_yet_gets_ram_that_is_all_there() {
    let machine = Machine::new();
    machine.touch_all_of_ram();
    assert_eq!(seen_of_an_early_one(&machine), [vec![ALL_OF_RAM], vec![]]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_that_is_not_open_yet_takes_no_memory_from_the_host() {
    let machine = Machine::new();
    assert_eq!(seen_of_an_early_one(&machine), [vec![], vec![ALL_OF_RAM]]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_that_is_not_opened_is_let_go() {
    let machine = Machine::new();
    machine.touch_all_of_ram();
    let (socket, running) = FakeDevice::new().start();
    drop(begin(socket, true, &common(), &machine.services).unwrap());
    assert_eq!(running.wait_until_closed(), [ALL_OF_RAM, Seen::Closed]);
}

/// Attaching this fails with this text, and nothing is left behind.
fn refused(device: FakeDevice, text: &str) {
    let machine = Machine::new();
    let (attached, running) = machine.try_attach(device, &common());
    let error = attached.unwrap_err();
    assert!(
        error.starts_with("Attach device net: ") && error.contains(text),
        "{error}"
    );
    assert_eq!(machine.slots(), 1);
    assert_eq!(running.wait_until_closed().last(), Some(&Seen::Closed));
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_without_reset_is_refused_unless_it_is_allowed() {
    let mut device = FakeDevice::new();
    device.info.reset = false;
    refused(device, "it cannot be reset");
    let mut device = FakeDevice::new();
    device.info.reset = false;
    let machine = Machine::new();
    let (attached, _running) = machine.try_attach(
        device,
        &VfioCommon {
            options: HostOptions {
                allow_no_reset: true,
                ..HostOptions::default()
            },
            ..common()
        },
    );
    let _function = attached.unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn area_outside_the_bar_is_refused() {
    let mut device = FakeDevice::new();
    device.areas = vec![SparseArea {
        offset: 0x3000,
        size: 0x2000,
    }];
    refused(device, "ask for region 0");
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn capability_loop_is_refused() {
    let mut device = FakeDevice::new();
    device.copy[0x61] = 0x40;
    refused(device, "comes back to 0x40");
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn refused_dma_map_and_too_few_maps_are_refused() {
    let mut device = FakeDevice::new();
    device.refuses_dma_map = true;
    refused(device, "let the device use guest RAM at 0x0");
    let mut device = FakeDevice::new();
    device.config.capabilities.max_dma_maps = 0;
    refused(device, "");
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_whose_server_refuses_to_tell_of_the_host_is_attached_all_the_same() {
    let machine = Machine::new();
    let mut device = FakeDevice::new();
    device.refuses_notices = true;
    let (function, _running) = machine.attach(device);
    assert!(function.host_notices().is_empty());
}
