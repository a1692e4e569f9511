//! The DSDT: the host bridge with its windows, interrupts and _OSC, what the board reserves, and the serial ports.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, Package, Path,
    ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{Board, definition_block, sleep_state};
use crate::machine::{power, serial};
use crate::memory::layout;
use crate::pci::intx_gsi;

/// Slots of the root bus and pins of a slot.
const SLOTS: u8 = 32;
const PINS: u8 = 4;
/// PCI host bridge _OSC interface (PCI Firmware 3.3 §4.5.1).
const OSC_PCI_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// _OSC control field bits (PCI Firmware 3.3 §4.5.1, table 4-6): native hot-plug (0), PME (2), AER (3), PCI Express
/// capability structures (4). Not granted: SHPC hot-plug (1), as there is no such controller.
const OSC_GRANTED: u32 = 0b1_1101;
/// Status bits of _OSC's first word (ACPI 6.5 §6.2.11): unknown UUID, unknown revision, some capabilities withheld.
const OSC_BAD_UUID: u8 = 1 << 2;
const OSC_BAD_REVISION: u8 = 1 << 3;
const OSC_WITHHELD: u8 = 1 << 4;

pub(super) fn dsdt(board: &Board) -> Sdt {
    let mut ports = Vec::new();
    for index in 0..board.serial_ports {
        ports.extend(serial_port(index));
    }
    let sleep = sleep_state();
    definition_block(
        *b"DSDT",
        &[
            &Raw(host_bridge(board)),
            &Raw(reserved()),
            &Raw(ports),
            &sleep,
        ],
    )
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// `\_SB.PCI0`: a PCI Express root.
fn host_bridge(board: &Board) -> Vec<u8> {
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0A08"));
    let cid = Name::new(path("_CID"), &EISAName::new("PNP0A03"));
    let segment = Name::new(path("_SEG"), &ZERO);
    let bus = Name::new(path("_BBN"), &ZERO);
    let uid = Name::new(path("_UID"), &ZERO);
    let windows = Raw(windows(board));
    let routing = Raw(interrupt_routing());
    let osc = Raw(osc());
    let device = Device::new(
        path("PCI0"),
        vec![&hid, &cid, &segment, &bus, &uid, &windows, &routing, &osc],
    );
    bytes(&Scope::new(path("\\_SB_"), vec![&device]))
}

/// `_CRS`: buses, the configuration ports, and the windows that BARs come from.
fn windows(board: &Board) -> Vec<u8> {
    let last = |start: u64, len: u64| start + len - 1;
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let port = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let (mmio32, mmio64, pio) = (layout::MMIO32, board.mmio64, layout::PIO);
    let uncached = AddressSpaceCacheable::NotCacheable;
    let buses = AddressSpace::new_bus_number(0u16, u16::from(board.last_bus));
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports = AddressSpace::new_io(port(pio.start), port(last(pio.start, pio.len)), None);
    let low_end = narrow(last(mmio32.start, mmio32.len));
    let low = AddressSpace::new_memory(uncached, true, narrow(mmio32.start), low_end, None);
    let high = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        mmio64.start,
        last(mmio64.start, mmio64.len),
        None,
    );
    let template = ResourceTemplate::new(vec![&buses, &config_ports, &ports, &low, &high]);
    bytes(&Name::new(path("_CRS"), &template))
}

/// `_PRT`: each pin of each slot goes to one GSI, without a link device. Linux finds the pins behind root ports by the
/// standard swizzle.
fn interrupt_routing() -> Vec<u8> {
    let routes: Vec<(u32, u8, u32)> = (0..SLOTS)
        .flat_map(|slot| {
            (0..PINS).map(move |pin| (u32::from(slot) << 16 | 0xffff, pin, intx_gsi(slot, pin)))
        })
        .collect();
    let entries: Vec<Package<'_>> = routes
        .iter()
        .map(|(address, pin, gsi)| Package::new(vec![address, pin, &ZERO, gsi]))
        .collect();
    let table = Package::new(entries.iter().map(|entry| entry as &dyn Aml).collect());
    bytes(&Name::new(path("_PRT"), &table))
}

/// `_OSC`: lets the guest have native PCIe hot-plug, PME, AER and the capability structures.
fn osc() -> Vec<u8> {
    let (status, control) = (path("CDW1"), path("CDW3"));
    let uuid = Uuid::new(OSC_PCI_UUID);
    let status_field = CreateDWordField::new(&status, &Arg(3), &ZERO);
    let control_field = CreateDWordField::new(&control, &Arg(3), &8u8);
    let granted = And::new(&Local(0), &control, &OSC_GRANTED);
    let is_withheld = NotEqual::new(&Local(0), &control);
    let withheld = Or::new(&status, &status, &OSC_WITHHELD);
    let if_withheld = If::new(&is_withheld, vec![&withheld]);
    let is_other_revision = NotEqual::new(&Arg(1), &ONE);
    let other_revision = Or::new(&status, &status, &OSC_BAD_REVISION);
    let if_other_revision = If::new(&is_other_revision, vec![&other_revision]);
    let answer = Store::new(&control, &Local(0));
    let is_pci = Equal::new(&Arg(0), &uuid);
    let if_pci = If::new(
        &is_pci,
        vec![
            &control_field,
            &granted,
            &if_other_revision,
            &if_withheld,
            &answer,
        ],
    );
    let unknown = Or::new(&status, &status, &OSC_BAD_UUID);
    let otherwise = Else::new(vec![&unknown]);
    let result = Return::new(&Arg(3));
    bytes(&Method::new(
        path("_OSC"),
        4,
        true,
        vec![&status_field, &if_pci, &otherwise, &result],
    ))
}

/// What the board uses itself and no driver may take: ECAM and the power registers.
fn reserved() -> Vec<u8> {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0C02"));
    let uid = Name::new(path("_UID"), &ZERO);
    let ecam = Memory32Fixed::new(true, narrow(layout::ECAM.start), narrow(layout::ECAM.len));
    let first = power::PM1_EVENT_PORT;
    let registers = IO::new(
        first,
        first,
        1,
        u8::try_from(power::POWER_PORTS.len).unwrap_or(u8::MAX),
    );
    let template = ResourceTemplate::new(vec![&ecam, &registers]);
    let resources = Name::new(path("_CRS"), &template);
    let device = Device::new(path("MBRD"), vec![&hid, &uid, &resources]);
    bytes(&Scope::new(path("\\_SB_"), vec![&device]))
}

/// `\_SB.COM1`, `\_SB.COM2`: 16550 ports.
fn serial_port(index: usize) -> Vec<u8> {
    let Some((range, gsi)) = serial::PORTS.get(index) else {
        return Vec::new();
    };
    let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
    let start = u16::try_from(range.start).unwrap_or(u16::MAX);
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0501"));
    let uid = Name::new(path("_UID"), &number);
    let ports = IO::new(start, start, 1, u8::try_from(range.len).unwrap_or(u8::MAX));
    let interrupt = Interrupt::new(true, true, false, false, gsi.0);
    let template = ResourceTemplate::new(vec![&ports, &interrupt]);
    let resources = Name::new(path("_CRS"), &template);
    let device = Device::new(path(&format!("COM{number}")), vec![&hid, &uid, &resources]);
    bytes(&Scope::new(path("\\_SB_"), vec![&device]))
}
