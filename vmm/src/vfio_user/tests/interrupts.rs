//! How vectors and the pin are wired, in which order.

use super::*;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn msix_vector_is_bound_when_it_is_first_unmasked() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[2, 4]);
    enable_msix(&function);
    assert_eq!(irqs(running.take_seen()), []);
    machine.unmask(3);
    assert_eq!(irqs(running.take_seen()), [bound(IrqIndex::MSIX, 3, 1)]);
    machine.unmask(3);
    assert_eq!(irqs(running.take_seen()), []);
    function.config_write(MSIX + 2, &[0, 0]);
    assert_eq!(irqs(running.take_seen()), [disabled(IrqIndex::MSIX)]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn masked_vector_keeps_what_arrives_as_its_pending_bit_and_delivers_it_later() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[2, 4]);
    enable_msix(&function);
    machine.unmask(1);
    assert!(running.fire(IrqIndex::MSIX, 1));
    assert_eq!(machine.pending(), 0, "delivered");
    machine.mmio_write(BAR + 0x201c, 1);
    assert!(running.fire(IrqIndex::MSIX, 1));
    assert_eq!(machine.pending(), 2);
    machine.mmio_write(BAR + 0x201c, 0);
    wait_for(|| machine.pending() == 0);
    function.config_write(MSIX + 2, &[0x00, 0xc0]);
    assert!(running.fire(IrqIndex::MSIX, 1));
    assert_eq!(machine.pending(), 2, "the function mask holds back as well");
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn fixed_set_is_bound_at_once_for_all_programmed_vectors_and_grows_by_doing_it_again() {
    let machine = Machine::new();
    let mut device = FakeDevice::new();
    device.msix_flags = IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE;
    let (function, running) = machine.attach(device);
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[2, 4]);
    function.config_write(MSIX + 2, &[0x00, 0xc0]);
    machine.unmask(0);
    machine.unmask(2);
    machine.mmio_write(BAR + 0x202c, 1);
    assert_eq!(
        irqs(running.take_seen()),
        [],
        "the function mask is still set"
    );
    enable_msix(&function);
    assert_eq!(irqs(running.take_seen()), [bound(IrqIndex::MSIX, 0, 3)]);
    machine.unmask(4);
    let growth = [disabled(IrqIndex::MSIX), bound(IrqIndex::MSIX, 0, 5)];
    assert_eq!(irqs(running.take_seen()), growth);
    assert_eq!(
        machine.pending(),
        0b110,
        "vectors that were bound and are held back are signalled once"
    );
}

/// The set grows on a vCPU's thread: one that waits for ever cannot even be stopped.
#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn server_that_fills_an_eventfd_does_not_hold_the_guest_when_the_set_grows() {
    let machine = Machine::new();
    let mut device = FakeDevice::new();
    device.msix_flags = IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE;
    let (function, running) = machine.attach(device);
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[2, 4]);
    enable_msix(&function);
    machine.unmask(1);
    running.fill(IrqIndex::MSIX, 0);
    let (done, grown) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        machine.unmask(4);
        done.send(machine.pending()).unwrap();
    });
    let pending = grown.recv_timeout(std::time::Duration::from_secs(20));
    assert_eq!(pending, Ok(0b1), "vector 0 was bound and is held back");
    drop(function);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn pin_is_unbound_before_msix_is_bound() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &MEMORY);
    let unmask = Seen::Irqs {
        index: IrqIndex::INTX,
        action: IrqAction::Unmask,
        start: 0,
        count: 1,
        eventfds: 1,
    };
    assert_eq!(
        irqs(running.take_seen()),
        [bound(IrqIndex::INTX, 0, 1), unmask]
    );
    enable_msix(&function);
    machine.unmask(0);
    let switch = [disabled(IrqIndex::INTX), bound(IrqIndex::MSIX, 0, 1)];
    assert_eq!(irqs(running.take_seen()), switch);
}
