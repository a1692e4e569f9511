//! Where the guest reaches BARs, and where it never does.

use super::*;
use crate::config::BarMmap;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn memory_enable_maps_the_bar_without_its_msix_pages_and_traps_the_rest() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    assert_eq!(function.mapped_areas(), 0);
    function.config_write(COMMAND, &MEMORY);
    assert_eq!((function.mapped_areas(), machine.slots()), (1, 2));
    assert_eq!(
        machine.mmio(BAR + 0x10),
        0xd0d0_d0d0,
        "the trap below a mapped area answers, too"
    );
    assert_eq!(
        machine.mmio(BAR + 0x200c),
        1,
        "the table's first entry is masked"
    );
    machine.mmio_write(BAR + 0x1000, 7);
    assert!(running.take_seen().contains(&Seen::Bar {
        offset: 0x1000,
        data: vec![7, 0, 0, 0]
    }));
    function.config_write(COMMAND, &[0, 0]);
    assert_eq!((function.mapped_areas(), machine.mmio(BAR)), (0, u32::MAX));
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bar_moves_take_the_mapping_along() {
    let machine = Machine::new();
    let (function, _running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    place_bar(&function, WINDOWS.mmio64.start);
    assert_eq!(function.mapped_areas(), 1);
    assert_eq!(
        (machine.mmio(BAR), machine.mmio(WINDOWS.mmio64.start)),
        (u32::MAX, 0xd0d0_d0d0)
    );
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bar_over_ram_ecam_or_the_apic_decodes_nowhere() {
    let machine = Machine::new();
    let (function, _running) = machine.attach(FakeDevice::new());
    function.config_write(COMMAND, &MEMORY);
    for address in [
        0,
        0x10_0000,
        WINDOWS.ecam.start,
        0xfee0_0000,
        0xfec0_0000,
        1 << 32,
        u64::MAX << 14,
    ] {
        place_bar(&function, address);
        assert_eq!(
            (function.mapped_areas(), machine.slots()),
            (0, 1),
            "{address:#x}"
        );
    }
    place_bar(&function, BAR);
    assert_eq!(function.mapped_areas(), 1);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bar_over_another_devices_bar_decodes_nowhere() {
    let machine = Machine::new();
    let (first, _running) = machine.attach(FakeDevice::new());
    let (second, _other) = machine.attach(FakeDevice::new());
    for function in [&first, &second] {
        place_bar(function, BAR);
        function.config_write(COMMAND, &MEMORY);
    }
    assert_eq!((first.mapped_areas(), second.mapped_areas()), (1, 0));
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bar_mmap_off_traps_everything() {
    let machine = Machine::new();
    let common = VfioCommon {
        options: HostOptions {
            bar_mmap: BarMmap::Off,
            managed: false,
            ..HostOptions::default()
        },
        ..common()
    };
    let (attached, _running) = machine.try_attach(FakeDevice::new(), &common);
    let function = attached.unwrap();
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    assert_eq!(function.mapped_areas(), 0);
    assert_eq!(machine.mmio(BAR), 0xd0d0_d0d0);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn power_down_unmaps_before_the_device_hears_of_it_and_after_power_up_maps_again() {
    let machine = Machine::new();
    let mut device = FakeDevice::new();
    device.copy[0x61] = 0x80;
    device.copy[0x80] = 0x01;
    let (function, _running) = machine.attach(device);
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    function.config_write(0x84, &[3, 0]);
    assert_eq!(function.mapped_areas(), 0);
    function.config_write(0x84, &[0, 0]);
    assert_eq!(function.mapped_areas(), 1);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn memory_that_kvm_cannot_reach_is_trapped_until_it_decodes_anew() {
    let machine = Machine::new();
    let (function, _running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    assert!(!function.drop_lost_mappings(Some(BAR + 0x4000)));
    assert!(function.drop_lost_mappings(Some(BAR + 0x10)));
    assert!(
        !function.drop_lost_mappings(None),
        "nothing is left to drop: the fault is another's"
    );
    assert_eq!(
        (function.mapped_areas(), machine.mmio(BAR)),
        (0, 0xd0d0_d0d0)
    );
    function.config_write(COMMAND, &[0, 0]);
    function.config_write(COMMAND, &MEMORY);
    assert_eq!(function.mapped_areas(), 1);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn rom_is_read_through_the_device_and_never_written() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    function.config_write(0x30, &0xc020_0001u32.to_le_bytes());
    function.config_write(COMMAND, &MEMORY);
    assert_eq!(machine.mmio(0xc020_0010), 0xd0d0_d0d0);
    running.take_seen();
    machine.mmio_write(0xc020_0010, 1);
    assert_eq!(running.take_seen(), []);
    function.config_write(0x30, &0xc020_0000u32.to_le_bytes());
    assert_eq!(
        machine.mmio(0xc020_0010),
        u32::MAX,
        "its own enable bit is off"
    );
}
