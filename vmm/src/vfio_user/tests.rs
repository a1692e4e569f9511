//! A function against a scripted device server, on the real `/dev/kvm`. No guest code runs.

mod attaching;
mod fake_device;
mod interrupts;
mod lifetime;
mod mapping;
mod reset;

use std::sync::Arc;

use fake_device::{DEVCTL, FakeDevice, MSIX, Running, Seen};
use protocol::{IrqAction, IrqIndex, IrqInfoFlags, SparseArea};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::address_space::{AddressRange, AddressSpaces};
use crate::config::{HostOptions, MemoryConfig, OnFailure, Place, VfioCommon};
use crate::kvm::tests::kvm;
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
        let vm = Vm::new(kvm()).unwrap();
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
            services: VmServices::new(&vm, &spaces, &ram, WINDOWS, false),
        }
    }

    fn try_attach(
        &self,
        device: FakeDevice,
        common: &VfioCommon,
    ) -> (Result<Arc<VfioUserFunction>, String>, Running) {
        let (socket, running) = device.start();
        let begun = begin(socket, false, common, &self.services);
        let attached = begun.and_then(|begun| attach(begun, common, &self.services));
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

    /// From then on the host has given memory for all of it.
    fn touch_all_of_ram(&self) {
        let ram = self.services.ram.guest_memory();
        for page in (0..RAM_BYTES).step_by(4096) {
            ram.write_obj(0_u8, GuestAddress(page)).unwrap();
        }
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
        pci: "-".into(),
        place,
        options: HostOptions::default(),
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
