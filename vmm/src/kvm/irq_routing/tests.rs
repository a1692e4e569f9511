use std::os::fd::AsFd;

use rustix::event::{EventfdFlags, eventfd};

use crate::kvm::tests::kvm;
use crate::kvm::{Gsi, KvmError, MsiMessage, Vm};

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn msi_routes_are_allocated_set_and_taken_again() {
    let vm = Vm::new(kvm()).unwrap();
    let irq = vm.irq();
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 0x30,
    };
    let gsis: Vec<_> = (0..100).map(|_| irq.allocate().unwrap()).collect();
    assert_eq!((gsis[0], gsis[99]), (Gsi(24), Gsi(123)));
    gsis.iter()
        .for_each(|gsi| irq.set_msi(*gsi, message).unwrap());
    irq.release(Gsi(30));
    assert!(matches!(
        irq.set_msi(Gsi(30), message),
        Err(KvmError::UnknownGsi(30))
    ));
    assert_eq!(irq.allocate().unwrap(), Gsi(30));
    assert_eq!(irq.allocate().unwrap(), Gsi(124));
    let rest = std::iter::from_fn(|| irq.allocate().ok()).count();
    assert_eq!(rest, 4096 - 125);
    assert!(matches!(
        irq.allocate(),
        Err(KvmError::NoGsi { limit: 4072 })
    ));
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn eventfds_are_attached_once_and_detached() {
    let vm = Vm::new(kvm()).unwrap();
    let irq = vm.irq();
    let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (trigger, resample) = (new(), new());
    irq.attach_resample(trigger.as_fd(), resample.as_fd(), Gsi(16))
        .unwrap();
    irq.attach(trigger.as_fd(), Gsi(17)).unwrap_err();
    irq.detach(trigger.as_fd(), Gsi(16)).unwrap();
    let gsi = irq.allocate().unwrap();
    irq.set_msi(
        gsi,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x30,
        },
    )
    .unwrap();
    irq.attach(trigger.as_fd(), gsi).unwrap();
    irq.detach(trigger.as_fd(), gsi).unwrap();
    let pipe = rustix::pipe::pipe().unwrap().0;
    let refused = irq.attach(pipe.as_fd(), gsi).unwrap_err();
    assert!(
        matches!(refused, KvmError::Irqfd { .. }),
        "a pipe is no eventfd"
    );
}
