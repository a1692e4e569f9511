//! What the guest is told about the board: the ACPI tables.
//!
//! RSDP → XSDT → FADT (→ DSDT, FACS), MADT, MCFG. Fixed hardware: see `power.rs` for the registers and the reason. One IOAPIC
//! with 24 pins, GSIs one to one, so that no interrupt needs an override; the SCI is level-triggered by default.
//!
//! Pure: bytes and where they go. `boot.rs` writes them. Limits: all tables fit in [`TABLES_LEN`] bytes.

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use self::dsdt::dsdt;
use super::power;
use crate::address_space::AddressRange;
use crate::memory::layout;

mod dsdt;

#[cfg(test)]
mod tests;

/// Where the tables begin: the RSDP must lie at a multiple of 16 between 0xe0000 and 0x100000 (ACPI 6.5 §5.2.5.1).
pub const TABLES_START: u64 = 0xe_0000;
/// Room for all tables.
pub const TABLES_LEN: u64 = 0x2_0000;

const OEM_ID: [u8; 6] = *b"BULKHD";
const OEM_TABLE_ID: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;
/// FADT IA-PC boot architecture flags (ACPI 6.5 §5.2.9.3): no VGA to probe, ASPM not for the guest, no CMOS clock. Bit 1
/// is clear: no keyboard controller to probe.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 4 | 1 << 5;
const IOAPIC_ID: u8 = 0;

/// What differs between machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Number of vCPUs; their APIC ids count from 0.
    pub cpus: u8,
    /// How many serial ports there are.
    pub serial_ports: usize,
    /// Where 64-bit BARs live.
    pub mmio64: AddressRange,
    /// The last PCI bus. Linux looks at every slot of every bus that MCFG names, an exit each: 256 buses are 8,192 exits.
    pub last_bus: u8,
}

/// The tables of a board, to be written at [`TABLES_START`], which is also the address of the RSDP.
pub fn tables(board: &Board) -> Vec<u8> {
    let mut blob = Blob {
        bytes: vec![0; Rsdp::len()],
    };
    let dsdt = blob.add(&dsdt(board));
    let facs = blob.add(&FACS::new());
    let fadt = blob.add(&fadt(dsdt, facs));
    let madt = blob.add(&madt(board.cpus));
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.start, 0, 0, board.last_bus);
    let mcfg = blob.add(&mcfg);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    [fadt, madt, mcfg]
        .into_iter()
        .for_each(|table| xsdt.add_entry(table));
    let xsdt = blob.add(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    blob.bytes.splice(..Rsdp::len(), rsdp);
    assert!(
        blob.bytes.len() as u64 <= TABLES_LEN,
        "the tables of the largest board fit, as a test shows"
    );
    blob.bytes
}

struct Blob {
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table and returns its guest address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(TABLE_ALIGN), 0);
        let address = TABLES_START + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn fadt(dsdt: u64, facs: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_64(facs)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.sci_int = u16::try_from(power::SCI.0).unwrap_or(u16::MAX).into();
    fadt.pm1a_evt_blk = u32::from(power::PM1_EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::PM1_CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_evt_blk = port(power::PM1_EVENT_PORT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(power::PM1_CONTROL_PORT, 16, AccessSize::WordAccess);
    fadt.reset_reg = port(power::RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = power::RESET_VALUE;
    // C2 and C3 do not exist (ACPI 6.5 §5.2.9: above 100 and 1000 microseconds).
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.finalize()
}

fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

fn madt(cpus: u8) -> MADT {
    let lapic = LocalInterruptController::Address(layout::LAPIC_START);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(IOAPIC_ID, layout::IOAPIC_START, 0));
    madt
}

/// A table whose body is AML.
fn definition_block(signature: [u8; 4], objects: &[&dyn Aml]) -> Sdt {
    let header = u32::try_from(HEADER_LEN).unwrap_or(u32::MAX);
    let mut table = Sdt::new(signature, header, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut body = Vec::new();
    objects
        .iter()
        .for_each(|object| object.to_aml_bytes(&mut body));
    table.append_slice(&body);
    table
}

/// The FACS must lie at a multiple of 64 (ACPI 6.5 §5.2.10); so all do.
const TABLE_ALIGN: usize = 64;
/// Length of a table's header (ACPI 6.5 §5.2.6).
const HEADER_LEN: usize = 36;

/// `\_S5`: what goes into SLP_TYPx to turn off.
fn sleep_state() -> aml::Name {
    let power_off = aml::Package::new(vec![&power::SLP_TYP_S5, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    aml::Name::new("_S5_".into(), &power_off)
}
