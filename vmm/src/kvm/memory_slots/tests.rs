use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use crate::kvm::tests::{DEVICE, kvm};
use crate::kvm::{DeviceMapping, KvmError, Vm};

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn memory_slot_outside_its_mapping_or_page_is_refused() {
    let vm = Vm::new(kvm()).unwrap();
    let bar = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&bar, 0x2000).unwrap();
    let mapping = Arc::new(DeviceMapping::new(bar.as_fd(), 0, 0x2000).unwrap());
    let slots = vm.memory_slots();
    for (gpa, offset, len) in [
        (DEVICE, 0x1000, 0x2000),
        (DEVICE, u64::MAX - 0xfff, 0x1000),
        (DEVICE, 0, 0),
        (DEVICE + 1, 0, 0x1000),
        (DEVICE, 8, 0x1000),
        (DEVICE, 0, 0x800),
        (u64::MAX - 0xfff, 0, 0x1000),
    ] {
        slots
            .map_device(gpa, Arc::clone(&mapping), offset, len)
            .unwrap_err();
    }
    let slot = slots
        .map_device(DEVICE, Arc::clone(&mapping), 0, 0x1000)
        .unwrap();
    slots
        .map_device(DEVICE, mapping, 0x1000, 0x1000)
        .unwrap_err();
    slots.unmap(slot).unwrap();
    assert!(matches!(slots.unmap(slot), Err(KvmError::UnknownSlot(_))));
    for (offset, len) in [(1, 0x1000), (0, 0), (0, 0x1001)] {
        DeviceMapping::new(bar.as_fd(), offset, len).unwrap_err();
    }
}
