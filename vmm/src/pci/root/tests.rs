use std::sync::Mutex;

use super::*;
use crate::address_space::AddressRange;
use crate::pci::BarRequest;
use crate::pci::config_space::ConfigSpace;
use crate::pci::function::IntxRoute;

const WINDOWS: PciWindows = PciWindows {
    ecam: AddressRange {
        start: 0xb000_0000,
        len: 256 << 20,
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

/// Remembers widths of accesses, and lets all of its configuration space be written.
pub(super) struct Recorder {
    id: String,
    space: Mutex<ConfigSpace>,
    seen: Mutex<Vec<(u16, usize)>>,
    resets: Mutex<u32>,
    bars: Vec<BarRequest>,
    route: Mutex<Option<IntxRoute>>,
}

impl Recorder {
    pub(super) fn new(id: &str, bars: &[BarRequest]) -> Arc<Recorder> {
        let mut space = ConfigSpace::new();
        space.allow(0, &[0xff; 4096]);
        space.set(0, &[0x34, 0x12, 0x78, 0x56]);
        space.set(0x3d, &[1]);
        Arc::new(Recorder {
            id: id.into(),
            space: Mutex::new(space),
            seen: Mutex::default(),
            resets: Mutex::default(),
            bars: bars.to_vec(),
            route: Mutex::default(),
        })
    }

    fn u32_at(&self, offset: u16) -> u32 {
        self.space.lock().unwrap().u32_at(offset)
    }
}

impl PciFunction for Recorder {
    fn id(&self) -> &str {
        &self.id
    }
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.seen.lock().unwrap().push((offset, data.len()));
        self.space.lock().unwrap().read(offset, data);
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.seen.lock().unwrap().push((offset, data.len()));
        self.space.lock().unwrap().write(offset, data);
    }
    fn bars(&self) -> Vec<BarRequest> {
        self.bars.clone()
    }
    fn placed(&self, route: IntxRoute) {
        *self.route.lock().unwrap() = Some(route);
    }
    fn reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }
    fn finish_reset(&self) {}
}

fn place(bus: &str, slot: u8, function: u8, multifunction: bool) -> Place {
    Place {
        bus: bus.to_owned(),
        slot,
        function,
        multifunction,
    }
}

pub(super) struct Machine {
    spaces: AddressSpaces,
    pub(super) host: Arc<PciHost>,
}

impl Machine {
    fn new() -> Machine {
        let spaces = AddressSpaces::default();
        let host = PciHost::new(WINDOWS, &spaces).unwrap();
        Machine { spaces, host }
    }

    pub(super) fn with_port() -> Machine {
        let machine = Machine::new();
        machine.add_port(1, None);
        machine
    }

    /// Root port `pcie.N` in slot N.
    pub(super) fn add_port(&self, number: u8, io_reserve: Option<u64>) {
        let port = RootPortConfig {
            id: format!("pcie.{number}"),
            port: number,
            place: place("pcie.0", number, 0, false),
            io_reserve,
            mem_reserve: None,
            pref64_reserve: None,
        };
        self.host.add_root_port(&port).unwrap();
    }

    fn plug(&self, id: &str, place: &Place, bars: &[BarRequest]) -> Arc<Recorder> {
        let function = Recorder::new(id, bars);
        self.host
            .plug(place, Arc::<Recorder>::clone(&function) as _)
            .unwrap();
        function
    }

    fn ecam<const N: usize>(&self, bus: u64, devfn: u64, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.spaces.mmio.read(
            WINDOWS.ecam.start + (bus << 20 | devfn << 12 | offset),
            &mut data,
        );
        data
    }

    fn ecam_write(&self, bus: u64, devfn: u64, offset: u64, data: &[u8]) {
        self.spaces.mmio.write(
            WINDOWS.ecam.start + (bus << 20 | devfn << 12 | offset),
            data,
        );
    }
}

#[test]
fn last_bus_is_that_of_the_last_port() {
    assert_eq!(Machine::new().host.last_bus(), 0);
    assert_eq!(Machine::with_port().host.last_bus(), 1);
}

#[test]
fn host_bridge_is_in_slot_0_and_absent_slots_read_ones() {
    let machine = Machine::new();
    assert_eq!(machine.ecam::<4>(0, 0, 8)[3], 0x06);
    assert_eq!(machine.ecam::<4>(0, 8, 0), [0xff; 4]);
    assert_eq!(machine.ecam::<4>(7, 0, 0), [0xff; 4]);
}

#[test]
fn ecam_access_of_8_bytes_is_split_into_two() {
    let machine = Machine::new();
    let function = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    assert_eq!(machine.ecam::<8>(0, 24, 0)[..4], [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(*function.seen.lock().unwrap(), [(0, 4), (4, 4)]);
}

#[test]
fn misaligned_access_is_split_into_aligned_pieces() {
    let machine = Machine::new();
    let function = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    machine.ecam_write(0, 24, 0x41, &[1, 2, 3, 4]);
    assert_eq!(
        *function.seen.lock().unwrap(),
        [(0x41, 1), (0x42, 2), (0x44, 1)]
    );
    assert_eq!(function.u32_at(0x40), 0x0302_0100);
}

#[test]
fn ports_reach_the_same_registers_in_all_widths() {
    let machine = Machine::new();
    let _function = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    let pio = &machine.spaces.pio;
    pio.write(0xcf8, &0x8000_1800u32.to_le_bytes());
    let (mut dword, mut word, mut byte, mut address) = ([0; 4], [0; 2], [0; 1], [0; 4]);
    pio.read(0xcfc, &mut dword);
    pio.read(0xcfe, &mut word);
    pio.read(0xcff, &mut byte);
    pio.read(0xcf8, &mut address);
    assert_eq!(
        (dword, word, byte),
        ([0x34, 0x12, 0x78, 0x56], [0x78, 0x56], [0x56])
    );
    assert_eq!(u32::from_le_bytes(address), 0x8000_1800);
}

#[test]
fn ports_without_the_enable_bit_read_ones() {
    let machine = Machine::new();
    let _function = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    machine.spaces.pio.write(0xcf8, &0x1800u32.to_le_bytes());
    let mut data = [0; 4];
    machine.spaces.pio.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn multifunction_bit_is_the_hosts_whatever_the_device_says() {
    let machine = Machine::new();
    let single = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    single.space.lock().unwrap().set(0x0e, &[0x80]);
    let _zero = machine.plug("b", &place("pcie.0", 4, 0, true), &[]);
    let _one = machine.plug("c", &place("pcie.0", 4, 1, false), &[]);
    assert_eq!(machine.ecam::<1>(0, 24, 0x0e), [0]);
    assert_eq!(machine.ecam::<4>(0, 32, 0x0c)[2], 0x80);
    assert_eq!(machine.ecam::<2>(0, 33, 0x0e)[0], 0);
}

#[test]
fn function_of_all_ones_stays_all_ones() {
    let machine = Machine::new();
    let lost = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    lost.space.lock().unwrap().set(0, &[0xff; 64]);
    assert_eq!(machine.ecam::<4>(0, 24, 0x0c), [0xff; 4]);
}

#[test]
fn program_numbers_buses_places_bars_and_writes_interrupt_lines() {
    let machine = Machine::with_port();
    let wide = BarRequest {
        index: 0,
        kind: BarKind::Memory64 {
            prefetchable: false,
        },
        size: 0x4000,
    };
    let behind = machine.plug("b", &place("pcie.1", 0, 0, false), &[wide]);
    let beside = machine.plug("a", &place("pcie.0", 3, 0, false), &[wide]);
    machine.host.program().unwrap();
    assert_eq!(machine.ecam::<4>(1, 0, 0), [0x34, 0x12, 0x78, 0x56]);
    assert_eq!((behind.u32_at(0x10), behind.u32_at(0x14)), (0xc000_0000, 0));
    assert_eq!(
        (beside.u32_at(0x10), beside.u32_at(0x14)),
        (0x20_0000, 0x80),
        "after the port's window"
    );
    assert_eq!(
        (behind.u32_at(0x3c) & 0xff, beside.u32_at(0x3c) & 0xff),
        (17, 19)
    );
    assert_eq!(behind.route.lock().unwrap().unwrap().gsi[0], 17);
}

#[test]
fn guest_may_renumber_the_bus_behind_a_port() {
    let machine = Machine::with_port();
    let _behind = machine.plug("b", &place("pcie.1", 0, 0, false), &[]);
    machine.host.program().unwrap();
    machine.ecam_write(0, 8, 0x19, &[9]);
    assert_eq!(machine.ecam::<4>(1, 0, 0), [0xff; 4]);
    assert_eq!(machine.ecam::<4>(9, 0, 0), [0x34, 0x12, 0x78, 0x56]);
}

#[test]
fn bus_reset_of_a_port_resets_what_is_behind_it_only() {
    let machine = Machine::with_port();
    let behind = machine.plug("b", &place("pcie.1", 0, 0, false), &[]);
    let beside = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    machine.ecam_write(0, 8, 0x3e, &[0x40, 0]);
    machine.ecam_write(0, 8, 0x3e, &[0, 0]);
    assert_eq!(
        (
            *behind.resets.lock().unwrap(),
            *beside.resets.lock().unwrap()
        ),
        (1, 0)
    );
}

#[test]
fn guest_reset_reaches_every_function_once() {
    let machine = Machine::with_port();
    let behind = machine.plug("b", &place("pcie.1", 0, 0, false), &[]);
    let beside = machine.plug("a", &place("pcie.0", 3, 0, false), &[]);
    machine.host.reset();
    assert_eq!(
        (
            *behind.resets.lock().unwrap(),
            *beside.resets.lock().unwrap()
        ),
        (1, 1)
    );
}

#[test]
fn program_refuses_a_function_that_no_guest_finds() {
    let machine = Machine::new();
    let _lonely = machine.plug("a", &place("pcie.0", 3, 1, false), &[]);
    assert!(matches!(
        machine.host.program(),
        Err(PciError::Place(PlaceError::NoFunctionZero { .. }))
    ));
}
