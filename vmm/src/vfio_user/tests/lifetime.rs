//! Reset, loss and release.

use super::*;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_reset_unmaps_disables_turns_off_and_resets_in_that_order() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.reset();
    function.finish_reset();
    let off = Seen::Config {
        offset: 4,
        data: vec![0, 0],
    };
    assert_eq!(
        running.take_seen(),
        [disabled(IrqIndex::MSIX), off, Seen::Reset]
    );
    assert_eq!((function.mapped_areas(), machine.slots()), (0, 1));
    let mut bar = [0; 4];
    function.config_read(0x10, &mut bar);
    assert_eq!(bar, [4, 0, 0, 0]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn function_level_reset_clears_registers_before_the_device_is_told() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.config_write(DEVCTL, &[0, 0x80]);
    function.finish_reset();
    let told = Seen::Config {
        offset: u64::from(DEVCTL),
        data: vec![0, 0x80],
    };
    assert_eq!(running.take_seen(), [disabled(IrqIndex::MSIX), told]);
    assert_eq!(function.mapped_areas(), 0);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn lost_device_reads_ones_drops_writes_and_leaves_the_guest_at_once() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    enable_msix(&function);
    machine.unmask(0);
    running.hang_up();
    let mut status = [0; 2];
    function.config_read(6, &mut status);
    assert_eq!(status, [0xff, 0xff]);
    assert!(!function.service());
    assert!(function.lost().is_some());
    assert_eq!((function.mapped_areas(), machine.slots()), (0, 1));
    let mut vendor = [0; 4];
    function.config_read(0, &mut vendor);
    assert_eq!(vendor, [0xff; 4]);
    assert_eq!(machine.mmio(BAR), u32::MAX);
    function.config_write(COMMAND, &MEMORY);
    function.reset();
    assert_eq!(machine.slots(), 1);
    running.wait_until_closed();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn detach_takes_everything_back_and_ends_the_connection() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.detach().unwrap();
    assert_eq!(machine.slots(), 1);
    assert_eq!(
        running.wait_until_closed(),
        [disabled(IrqIndex::MSIX), Seen::Closed]
    );
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn server_that_keeps_guest_memory_is_told_by_detach() {
    let machine = Machine::new();
    let mut device = FakeDevice::new();
    device.refuses_dma_unmap = true;
    let (function, running) = machine.attach(device);
    let error = function.detach().unwrap_err();
    assert!(error.contains("let go of the guest's memory"), "{error}");
    running.wait_until_closed();
}

/// Whoever notices a loss does not wait for the kernel to reset the device; whoever lets go of it does.
#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bars_of_a_lost_device_stay_mapped_in_the_vmm_until_it_is_detached() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    running.hang_up();
    let mut status = [0; 2];
    function.config_read(6, &mut status);
    assert!(!function.service());
    assert!(function.has_mappings());
    function.detach().unwrap();
    assert!(!function.has_mappings());
}
