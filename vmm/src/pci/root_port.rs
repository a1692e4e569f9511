//! A PCI Express root port: a bridge with one slot behind it.
//!
//! Spec: PCI-to-PCI Bridge 1.2 §3.2 (type 1 header); PCI Express Base 4.0 §7.5.3 (PCI Express capability);
//! PCI Local Bus 3.0 §6.8.1 (MSI). Register offsets and bits are in `root_port/spec.rs`.
//! The windows and bus numbers are what the guest wrote last; the host routes configuration accesses by them. A
//! function behind the port decodes its BARs wherever they are: the windows only matter to the guest.
//! Not yet: hot-plug. The slot is declared, without a hot-plug controller; its status follows [`RootPort::set_present`],
//! and the MSI message that a controller will send is stored by the guest already.
//! Limits: one bus behind the port, with one slot (0).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::allocate::BridgePlan;
use super::bar::BarRequest;
use super::config_space::ConfigSpace;
use super::function::{IntxRoute, PciFunction};

mod spec;

use spec::{
    BRIDGE_CONTROL, BRIDGE_CONTROL_BUS_RESET, BRIDGE_CONTROL_WRITABLE, CACHE_LINE,
    CAPABILITY_EXPRESS, CAPABILITY_MSI, CLASS_AND_REVISION, COMMAND, COMMAND_IO, COMMAND_MASTER,
    COMMAND_MEMORY, COMMAND_WRITABLE, DEVCAP, DEVCAP_ROLE_BASED_ERRORS, DEVCTL, DEVCTL_WRITABLE,
    DEVSTA, DEVSTA_CLEARED_BY_ONE, EXPRESS_BODY_BYTES, HEADER_TYPE, HEADER_TYPE_BRIDGE, IDENTITY,
    INTERRUPT_LINE, INTERRUPT_PIN, IO_BASE, LNKCAP, LNKCAP_DLLLARC, LNKCAP_SPEED_16GT,
    LNKCAP_WIDTH_X16, LNKCAP2, LNKCAP2_UP_TO_16GT, LNKCTL, LNKCTL_WRITABLE, LNKCTL2,
    LNKCTL2_WRITABLE, LNKSTA, LNKSTA_DLLLA, LNKSTA_SPEED_16GT, LNKSTA_WIDTH_X16, MEMORY_BASE,
    MSI_64_BIT_BODY_BYTES, MSI_CONTROL_64_BIT, MSI_CONTROL_ENABLE, PCIECAP, PCIECAP_ROOT_PORT,
    PCIECAP_SLOT, PCIECAP_V2, PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER, PRIMARY_BUS, ROOTCTL,
    ROOTCTL_WRITABLE, ROOTSTA, ROOTSTA_PME, SECONDARY_STATUS, SLTCAP, SLTCAP_NUMBER_SHIFT, SLTSTA,
    SLTSTA_PDS, STATUS, STATUS_CLEARED_BY_ONE, WINDOW_IS_64_BIT,
};

/// A root port. Plug it into the root bus; the functions behind it are the host's.
#[derive(Debug)]
pub struct RootPort {
    id: String,
    registers: Mutex<Registers>,
    bus_reset: AtomicBool,
}

#[derive(Debug)]
struct Registers {
    space: ConfigSpace,
    express: u16,
}

impl RootPort {
    /// A port with nothing behind it. `number` is the port's and the slot's number.
    pub fn new(id: &str, number: u8) -> Self {
        let registers = Mutex::new(power_on(number));
        Self {
            id: id.to_owned(),
            registers,
            bus_reset: AtomicBool::new(false),
        }
    }

    /// The secondary and subordinate bus that the guest (or firmware) gave the port; secondary 0 means none.
    pub fn buses(&self) -> (u8, u8) {
        let [_, secondary, subordinate, _] = self.lock().space.u32_at(PRIMARY_BUS).to_le_bytes();
        (secondary, subordinate)
    }

    /// Shows in the slot and link status whether a device is behind the port.
    pub fn set_present(&self, present: bool) {
        let mut registers = self.lock();
        let express = registers.express;
        let set = |value: u16, bit: u16| if present { value | bit } else { value & !bit };
        let slot = set(registers.space.u16_at(express + SLTSTA), SLTSTA_PDS);
        let link = set(registers.space.u16_at(express + LNKSTA), LNKSTA_DLLLA);
        registers.space.set(express + SLTSTA, &slot.to_le_bytes());
        registers.space.set(express + LNKSTA, &link.to_le_bytes());
    }

    /// True once after the guest has set the secondary bus reset bit: what is behind the port must be reset.
    pub fn take_bus_reset(&self) -> bool {
        self.bus_reset.swap(false, Ordering::AcqRel)
    }

    /// Writes bus numbers and windows, and turns the bridge on, as firmware does.
    pub fn program(&self, plan: &BridgePlan) {
        let mut registers = self.lock();
        registers.space.set(PRIMARY_BUS, &[0, plan.bus, plan.bus]);
        for (offset, bytes) in window_registers(plan) {
            registers.space.set(offset, &bytes);
        }
        registers.space.set(
            COMMAND,
            &(COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER).to_le_bytes(),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl PciFunction for RootPort {
    fn id(&self) -> &str {
        &self.id
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().space.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut registers = self.lock();
        let before = registers.space.u16_at(BRIDGE_CONTROL);
        registers.space.write(offset, data);
        let after = registers.space.u16_at(BRIDGE_CONTROL);
        if after & !before & BRIDGE_CONTROL_BUS_RESET != 0 {
            self.bus_reset.store(true, Ordering::Release);
        }
    }

    fn bars(&self) -> Vec<BarRequest> {
        Vec::new()
    }

    fn placed(&self, _route: IntxRoute) {}

    fn reset(&self) {
        let mut registers = self.lock();
        let [number, ..] = (registers.space.u32_at(registers.express + LNKCAP) >> 24).to_le_bytes();
        let present = registers.space.u16_at(registers.express + SLTSTA) & SLTSTA_PDS != 0;
        *registers = power_on(number);
        drop(registers);
        self.set_present(present);
    }
}

fn power_on(number: u8) -> Registers {
    let mut space = ConfigSpace::new();
    header(&mut space);
    let express = express_capability(&mut space, number);
    msi_capability(&mut space);
    Registers { space, express }
}

fn header(space: &mut ConfigSpace) {
    space.set(0x00, &IDENTITY);
    space.set(0x08, &CLASS_AND_REVISION);
    space.set(HEADER_TYPE, &[HEADER_TYPE_BRIDGE]);
    space.set(
        PREFETCHABLE_BASE,
        &[WINDOW_IS_64_BIT, 0, WINDOW_IS_64_BIT, 0],
    );
    space.set(INTERRUPT_PIN, &[1]);
    space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
    space.allow_clear(STATUS, &STATUS_CLEARED_BY_ONE.to_le_bytes());
    space.allow(CACHE_LINE, &[0xff]);
    space.allow(PRIMARY_BUS, &[0xff; 3]);
    space.allow(IO_BASE, &[0xf0, 0xf0]);
    space.allow_clear(SECONDARY_STATUS, &STATUS_CLEARED_BY_ONE.to_le_bytes());
    space.allow(MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
    space.allow(PREFETCHABLE_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
    space.allow(PREFETCHABLE_BASE_UPPER, &[0xff; 8]);
    space.allow(INTERRUPT_LINE, &[0xff]);
    space.allow(BRIDGE_CONTROL, &BRIDGE_CONTROL_WRITABLE.to_le_bytes());
}

fn express_capability(space: &mut ConfigSpace, number: u8) -> u16 {
    let at = space.add_capability(CAPABILITY_EXPRESS, &[0; EXPRESS_BODY_BYTES]);
    let number32 = u32::from(number);
    space.set(
        at + PCIECAP,
        &(PCIECAP_V2 | PCIECAP_ROOT_PORT | PCIECAP_SLOT).to_le_bytes(),
    );
    space.set(at + DEVCAP, &DEVCAP_ROLE_BASED_ERRORS.to_le_bytes());
    space.set(
        at + LNKCAP,
        &(LNKCAP_SPEED_16GT | LNKCAP_WIDTH_X16 | LNKCAP_DLLLARC | number32 << 24).to_le_bytes(),
    );
    space.set(
        at + LNKSTA,
        &(LNKSTA_SPEED_16GT | LNKSTA_WIDTH_X16).to_le_bytes(),
    );
    space.set(
        at + SLTCAP,
        &(number32 << SLTCAP_NUMBER_SHIFT).to_le_bytes(),
    );
    space.set(at + LNKCAP2, &LNKCAP2_UP_TO_16GT.to_le_bytes());
    space.set(at + LNKCTL2, &LNKSTA_SPEED_16GT.to_le_bytes());
    space.allow(at + DEVCTL, &DEVCTL_WRITABLE.to_le_bytes());
    space.allow_clear(at + DEVSTA, &DEVSTA_CLEARED_BY_ONE.to_le_bytes());
    space.allow(at + LNKCTL, &LNKCTL_WRITABLE.to_le_bytes());
    space.allow(at + ROOTCTL, &ROOTCTL_WRITABLE.to_le_bytes());
    space.allow_clear(at + ROOTSTA, &ROOTSTA_PME.to_le_bytes());
    space.allow(at + LNKCTL2, &LNKCTL2_WRITABLE.to_le_bytes());
    at
}

fn msi_capability(space: &mut ConfigSpace) {
    let at = space.add_capability(CAPABILITY_MSI, &[0; MSI_64_BIT_BODY_BYTES]);
    space.set(at + 2, &MSI_CONTROL_64_BIT.to_le_bytes());
    space.allow(at + 2, &MSI_CONTROL_ENABLE.to_le_bytes());
    space.allow(
        at + 4,
        &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
}

/// The window registers for a plan; a window that is not there has its base above its limit.
fn window_registers(plan: &BridgePlan) -> [(u16, Vec<u8>); 4] {
    let ends = |window: Option<super::AddressRange>, closed: (u64, u64)| {
        window.map_or(closed, |window| {
            (window.start, window.start + (window.len - 1))
        })
    };
    let high_byte = |address: u64| address.to_le_bytes()[1] & 0xf0;
    let high_half = |address: u64| [address.to_le_bytes()[2] & 0xf0, address.to_le_bytes()[3]];
    let upper = |address: u64| address.to_le_bytes()[4..].to_vec();
    let (io_base, io_limit) = ends(plan.io, (0xf000, 0));
    let (base, limit) = ends(plan.memory, (0xfff0_0000, 0));
    let (wide_base, wide_limit) = ends(plan.prefetchable, (0xfff0_0000, 0));
    let mut wide = [high_half(wide_base), high_half(wide_limit)].concat();
    wide[0] |= WINDOW_IS_64_BIT;
    wide[2] |= WINDOW_IS_64_BIT;
    [
        (IO_BASE, vec![high_byte(io_base), high_byte(io_limit)]),
        (MEMORY_BASE, [high_half(base), high_half(limit)].concat()),
        (PREFETCHABLE_BASE, wide),
        (
            PREFETCHABLE_BASE_UPPER,
            [upper(wide_base), upper(wide_limit)].concat(),
        ),
    ]
}

#[cfg(test)]
mod tests;
