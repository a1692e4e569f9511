//! A device whose reset takes its time: no vCPU waits for it.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::*;

/// What no access of a vCPU may come near.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A device in use whose resets last until the word comes.
fn held(machine: &Machine) -> (Arc<VfioUserFunction>, Running, Sender<()>) {
    let mut device = FakeDevice::new();
    let word = device.hold_resets();
    let (function, running) = machine.attach(device);
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    (function, running, word)
}

fn vendor(function: &VfioUserFunction) -> [u8; 4] {
    let mut bytes = [0; 4];
    function.config_read(0, &mut bytes);
    bytes
}

fn looks_absent(machine: &Machine, function: &VfioUserFunction) {
    assert_eq!(vendor(function), [0xff; 4]);
    let mut command = [0; 4];
    function.config_read(COMMAND, &mut command);
    assert_eq!(command, [0xff; 4], "Linux takes anything else for ready");
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(function);
    machine.unmask(1);
    place_bar(function, BAR);
    assert_eq!((function.mapped_areas(), machine.mmio(BAR)), (0, u32::MAX));
}

fn works_again(machine: &Machine, function: &VfioUserFunction, running: &Running) {
    wait_for(|| vendor(function) != [0xff; 4]);
    assert_eq!(vendor(function), [0x36, 0x1b, 0x10, 0x00]);
    let mut command = [0; 2];
    function.config_read(COMMAND, &mut command);
    assert_eq!(command, [0, 0], "what was written meanwhile is dropped");
    running.take_seen();
    place_bar(function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    assert_eq!(function.mapped_areas(), 1);
    enable_msix(function);
    machine.unmask(1);
    assert_eq!(irqs(running.take_seen()), [bound(IrqIndex::MSIX, 1, 1)]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn function_level_reset_that_takes_long_holds_no_vcpu_and_the_device_looks_absent() {
    let machine = Machine::new();
    let (function, running, word) = held(&machine);
    let start = Instant::now();
    function.config_write(DEVCTL, &[0, 0x80]);
    looks_absent(&machine, &function);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    drop(word);
    works_again(&machine, &function, &running);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn bus_reset_that_takes_long_holds_no_vcpu_and_the_device_looks_absent() {
    let machine = Machine::new();
    let (function, running, word) = held(&machine);
    let start = Instant::now();
    function.reset();
    looks_absent(&machine, &function);
    function.reset();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    drop(word);
    works_again(&machine, &function, &running);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_reset_waits_until_the_device_is_ready() {
    let machine = Machine::new();
    let (function, running, word) = held(&machine);
    function.reset();
    std::thread::scope(|scope| {
        let finished = scope.spawn(|| function.finish_reset());
        wait_for(|| vendor(&function) == [0xff; 4]);
        assert!(!finished.is_finished());
        word.send(()).unwrap();
        finished.join().unwrap();
    });
    assert_eq!(vendor(&function), [0x36, 0x1b, 0x10, 0x00]);
    assert!(running.take_seen().contains(&Seen::Reset));
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn device_can_be_detached_while_its_reset_is_not_over() {
    let machine = Machine::new();
    let (function, running, word) = held(&machine);
    function.reset();
    let start = Instant::now();
    let error = function.detach().unwrap_err();
    assert!(error.contains("did not say that it let go"), "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(machine.slots(), 1);
    drop(word);
    assert_eq!(running.wait_until_closed().last(), Some(&Seen::Closed));
}
