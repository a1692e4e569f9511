//! A function against a scripted device server, on the real `/dev/kvm`. No guest code runs.

mod fake_device;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fake_device::{DEVCTL, FakeDevice, MSIX, Running, Seen};
use protocol::{IrqAction, IrqIndex, IrqInfoFlags, SparseArea};

use super::*;
use crate::address_space::{AddressRange, AddressSpaces};
use crate::config::{BarMmap, MemoryConfig, OnFailure, Place, VfioCommon};
use crate::memory::layout::RamRegion;
use crate::pci::{IntxRoute, PciFunction};

const RAM_BYTES: u64 = 64 << 20;
const WINDOWS: PciWindows = PciWindows {
    ecam: AddressRange {
        start: 0xb000_0000,
        len: 0x1000_0000,
    },
    mmio32: AddressRange {
        start: 0xc000_0000,
        len: 0x3c00_0000,
    },
    mmio64: AddressRange {
        start: 1 << 39,
        len: 1 << 39,
    },
    pio: AddressRange {
        start: 0x1000,
        len: 0xf000,
    },
};
const BAR: u64 = 0xc010_0000;
const COMMAND: u16 = 4;
const MEMORY: [u8; 2] = [2, 0];

struct Machine {
    services: VmServices,
}

impl Machine {
    fn new() -> Machine {
        let kvm = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm");
        let kvm = kvm.expect("these tests need /dev/kvm (no guest runs, so a slow one will do)");
        let vm = Vm::new(OwnedFd::from(kvm)).unwrap();
        let config = MemoryConfig {
            size_bytes: RAM_BYTES,
            hugetlb: None,
            mem_path: None,
            prealloc: false,
        };
        let ram = GuestRam::new(
            &config,
            vec![RamRegion {
                gpa: 0,
                len: RAM_BYTES,
                file_offset: 0,
            }],
        );
        let ram = Arc::new(ram.unwrap());
        vm.memory_slots().map_ram(&ram).unwrap();
        let spaces = Arc::new(AddressSpaces::default());
        Machine {
            services: VmServices::new(&vm, &spaces, &ram, WINDOWS),
        }
    }

    fn try_attach(
        &self,
        device: FakeDevice,
        common: &VfioCommon,
    ) -> (Result<Arc<VfioUserFunction>, String>, Running) {
        let (socket, running) = device.start();
        let attached = attach(socket, common, &self.services);
        (
            attached.map_err(|error| crate::one_line::one_line(&error)),
            running,
        )
    }

    fn attach(&self, device: FakeDevice) -> (Arc<VfioUserFunction>, Running) {
        let (attached, running) = self.try_attach(device, &common());
        let function = attached.unwrap();
        function.placed(IntxRoute {
            gsi: [16, 17, 18, 19],
        });
        running.take_seen();
        (function, running)
    }

    fn slots(&self) -> usize {
        self.services.vm.memory_slots().count()
    }

    fn mmio(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.services.spaces.mmio.read(address, &mut data);
        u32::from_le_bytes(data)
    }

    fn mmio_write(&self, address: u64, value: u32) {
        self.services
            .spaces
            .mmio
            .write(address, &value.to_le_bytes());
    }

    /// Programs and unmasks an MSI-X vector.
    fn unmask(&self, vector: u64) {
        let entry = BAR + 0x2000 + 16 * vector;
        self.mmio_write(entry, 0xfee0_0000);
        self.mmio_write(entry + 8, 0x4041);
        self.mmio_write(entry + 12, 0);
    }

    fn pending(&self) -> u32 {
        self.mmio(BAR + 0x3000)
    }
}

fn common() -> VfioCommon {
    let place = Place {
        bus: "pcie.0".into(),
        slot: 3,
        function: 0,
        multifunction: false,
    };
    VfioCommon {
        id: "net".into(),
        place,
        bar_mmap: BarMmap::On,
        allow_no_reset: false,
        unplug_timeout_s: 30,
        on_failure: OnFailure::Remove,
    }
}

fn place_bar(function: &VfioUserFunction, address: u64) {
    let bytes = address.to_le_bytes();
    function.config_write(0x10, &bytes[..4]);
    function.config_write(0x14, &bytes[4..]);
}

fn enable_msix(function: &VfioUserFunction) {
    function.config_write(MSIX + 2, &[0x00, 0x80]);
}

fn irqs(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter()
        .filter(|seen| matches!(seen, Seen::Irqs { .. }))
        .collect()
}

fn bound(index: IrqIndex, start: u32, count: u32) -> Seen {
    Seen::Irqs {
        index,
        action: IrqAction::Trigger,
        start,
        count,
        eventfds: count.try_into().unwrap(),
    }
}

fn disabled(index: IrqIndex) -> Seen {
    Seen::Irqs {
        index,
        action: IrqAction::Trigger,
        start: 0,
        count: 0,
        eventfds: 0,
    }
}

#[test]
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

#[test]
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
fn bar_mmap_off_traps_everything() {
    let machine = Machine::new();
    let common = VfioCommon {
        bar_mmap: BarMmap::Off,
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

#[test]
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

#[test]
fn guest_reset_unmaps_disables_turns_off_and_resets_in_that_order() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.reset();
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
fn function_level_reset_clears_registers_before_the_device_is_told() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.config_write(DEVCTL, &[0, 0x80]);
    let told = Seen::Config {
        offset: u64::from(DEVCTL),
        data: vec![0, 0x80],
    };
    assert_eq!(running.take_seen(), [disabled(IrqIndex::MSIX), told]);
    assert_eq!(function.mapped_areas(), 0);
}

#[test]
fn lost_device_reads_ones_drops_writes_and_leaves_no_mapping() {
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
fn detach_takes_everything_back_and_ends_the_connection() {
    let machine = Machine::new();
    let (function, running) = machine.attach(FakeDevice::new());
    place_bar(&function, BAR);
    function.config_write(COMMAND, &[6, 4]);
    enable_msix(&function);
    machine.unmask(0);
    running.take_seen();
    function.detach();
    assert_eq!(machine.slots(), 1);
    assert_eq!(
        running.wait_until_closed(),
        [disabled(IrqIndex::MSIX), Seen::Closed]
    );
}

#[test]
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
            allow_no_reset: true,
            ..common()
        },
    );
    let _function = attached.unwrap();
}

#[test]
fn area_outside_the_bar_is_refused() {
    let mut device = FakeDevice::new();
    device.areas = vec![SparseArea {
        offset: 0x3000,
        size: 0x2000,
    }];
    refused(device, "ask for region 0");
}

#[test]
fn capability_loop_is_refused() {
    let mut device = FakeDevice::new();
    device.copy[0x61] = 0x40;
    refused(device, "comes back to 0x40");
}

#[test]
fn refused_dma_map_and_too_few_maps_are_refused() {
    let mut device = FakeDevice::new();
    device.refuses_dma_map = true;
    refused(device, "let the device use guest RAM at 0x0");
    let mut device = FakeDevice::new();
    device.config.capabilities.max_dma_maps = 0;
    refused(device, "");
}

fn wait_for(condition: impl Fn() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !condition() {
        assert!(
            std::time::Instant::now() < until,
            "it did not come about within 5 s"
        );
        std::thread::yield_now();
    }
}
