//! What a root port's registers hold after power-on, and what firmware writes for a plan.

use super::spec::{
    BRIDGE_CONTROL, BRIDGE_CONTROL_WRITABLE, CACHE_LINE, CAPABILITY_EXPRESS, CAPABILITY_MSI,
    CLASS_AND_REVISION, COMMAND, COMMAND_WRITABLE, DEVCAP, DEVCAP_ROLE_BASED_ERRORS, DEVCTL,
    DEVCTL_WRITABLE, DEVSTA, DEVSTA_CLEARED_BY_ONE, EXPRESS_BODY_BYTES, HEADER_TYPE,
    HEADER_TYPE_BRIDGE, IDENTITY, INTERRUPT_LINE, INTERRUPT_PIN, IO_BASE, LNKCAP, LNKCAP_DLLLARC,
    LNKCAP_SPEED_16GT, LNKCAP_WIDTH_X16, LNKCAP2, LNKCAP2_UP_TO_16GT, LNKCTL, LNKCTL_WRITABLE,
    LNKCTL2, LNKCTL2_WRITABLE, LNKSTA, LNKSTA_SPEED_16GT, LNKSTA_WIDTH_X16, MEMORY_BASE,
    MSI_64_BIT_BODY_BYTES, MSI_CONTROL_64_BIT, MSI_CONTROL_ENABLE, PCIECAP, PCIECAP_ROOT_PORT,
    PCIECAP_SLOT, PCIECAP_V2, PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER, PRIMARY_BUS, ROOTCTL,
    ROOTCTL_WRITABLE, ROOTSTA, ROOTSTA_PME, SECONDARY_STATUS, SLTCAP, SLTCAP_HOT_PLUG,
    SLTCAP_NUMBER_SHIFT, SLTCTL, STATUS, STATUS_CLEARED_BY_ONE, WINDOW_IS_64_BIT,
};
use crate::pci::AddressRange;
use crate::pci::allocate::BridgePlan;
use crate::pci::config_space::ConfigSpace;
use crate::pci::slot::bits::SLTCTL_WRITABLE;

/// Configuration space and where the two capabilities are in it.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) space: ConfigSpace,
    pub(super) express: u16,
    pub(super) msi: u16,
}

/// The registers of port `number` after power-on.
pub(super) fn power_on(number: u8) -> Layout {
    let mut space = ConfigSpace::new();
    header(&mut space);
    let express = express_capability(&mut space, number);
    let msi = msi_capability(&mut space);
    Layout {
        space,
        express,
        msi,
    }
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
        &(SLTCAP_HOT_PLUG | number32 << SLTCAP_NUMBER_SHIFT).to_le_bytes(),
    );
    space.allow(at + SLTCTL, &SLTCTL_WRITABLE.to_le_bytes());
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

fn msi_capability(space: &mut ConfigSpace) -> u16 {
    let at = space.add_capability(CAPABILITY_MSI, &[0; MSI_64_BIT_BODY_BYTES]);
    space.set(at + 2, &MSI_CONTROL_64_BIT.to_le_bytes());
    space.allow(at + 2, &MSI_CONTROL_ENABLE.to_le_bytes());
    space.allow(
        at + 4,
        &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
    at
}

/// The window registers for a plan; a window that is not there has its base above its limit.
pub(super) fn window_registers(plan: &BridgePlan) -> [(u16, Vec<u8>); 4] {
    let ends = |window: Option<AddressRange>, closed: (u64, u64)| {
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
