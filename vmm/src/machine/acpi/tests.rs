use std::process::Command;

use super::{Board, TABLES_LEN, TABLES_START, tables};
use crate::address_space::AddressRange;

fn board(cpus: u8) -> Board {
    Board {
        cpus,
        serial_ports: 2,
        mmio64: AddressRange {
            start: 1 << 45,
            len: 1 << 45,
        },
        last_bus: 0x11,
    }
}

/// A table by its guest address.
fn at(blob: &[u8], address: u64) -> &[u8] {
    let start = usize::try_from(address - TABLES_START).unwrap();
    let len = u32::from_le_bytes(blob[start + 4..start + 8].try_into().unwrap());
    &blob[start..start + usize::try_from(len).unwrap()]
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The tables that the XSDT names, by signature.
fn table(blob: &[u8], signature: &[u8]) -> Vec<u8> {
    let xsdt = at(blob, number(&blob[24..32]));
    let found = xsdt[36..]
        .chunks(8)
        .map(|entry| at(blob, number(entry)))
        .find(|table| table.starts_with(signature));
    found.unwrap().to_vec()
}

fn dsdt(blob: &[u8]) -> Vec<u8> {
    at(blob, number(&table(blob, b"FACP")[140..148])).to_vec()
}

#[test]
fn every_checksum_is_right_and_the_largest_board_fits() {
    let blob = tables(&board(32));
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert!(blob.len() as u64 <= TABLES_LEN);
    assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0), "RSDP");
    assert_eq!(sum(at(&blob, number(&blob[24..32]))), 0, "XSDT");
    for signature in [b"FACP", b"APIC", b"MCFG"] {
        assert_eq!(
            sum(&table(&blob, signature)),
            0,
            "{}",
            String::from_utf8_lossy(signature)
        );
    }
    assert_eq!(sum(&dsdt(&blob)), 0, "DSDT");
}

#[test]
fn fadt_has_fixed_hardware_and_a_reset_register() {
    let blob = tables(&board(1));
    let fadt = table(&blob, b"FACP");
    let flags = number(&fadt[112..116]);
    assert_eq!(
        flags & (1 << 20 | 1 << 10 | 1 << 4),
        1 << 10,
        "reset register, power button, not hardware-reduced"
    );
    assert_eq!(
        (number(&fadt[46..48]), number(&fadt[48..52])),
        (9, 0),
        "SCI, no SMI command port"
    );
    assert_eq!(
        (number(&fadt[56..60]), number(&fadt[64..68])),
        (0x600, 0x604)
    );
    assert_eq!((fadt[88], fadt[89]), (4, 2));
    // Generic address: I/O space, 8 bits, offset 0, byte access, port.
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0x08, 0x06, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 1);
    assert!(at(&blob, number(&fadt[132..140])).starts_with(b"FACS"));
    assert!(number(&fadt[132..140]).is_multiple_of(64));
}

#[test]
fn madt_has_every_vcpu_and_one_ioapic() {
    let madt = table(&tables(&board(3)), b"APIC");
    assert_eq!(number(&madt[36..40]), 0xfee0_0000);
    assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(madt[60..68], [0, 8, 2, 2, 1, 0, 0, 0]);
    assert_eq!(madt[68..], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
}

#[test]
fn mcfg_names_no_bus_behind_the_last() {
    let mcfg = table(&tables(&board(1)), b"MCFG");
    assert_eq!(number(&mcfg[44..52]), 0xb000_0000);
    assert_eq!(mcfg[52..56], [0, 0, 0, 0x11]);
}

/// The DSDT is read back by ACPICA's own compiler, which scripts/setup installs.
#[test]
fn dsdt_is_what_acpica_reads_back() {
    let directory = std::env::temp_dir().join(format!("bulkhead-dsdt-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("dsdt.aml"), dsdt(&tables(&board(2)))).unwrap();
    let output = Command::new("iasl")
        .args(["-d", "dsdt.aml"])
        .current_dir(&directory)
        .output()
        .expect("iasl (Debian package acpica-tools)");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let source = std::fs::read_to_string(directory.join("dsdt.dsl")).unwrap();
    let words = [
        "Device (PCI0)",
        "EisaId (\"PNP0A08\")",
        "Method (_OSC, 4, Serialized)",
        "33db4d5b-1ff7-401c-9657-7441c03dd766",
    ];
    for word in words.into_iter().chain([
        "Name (_S5",
        "EisaId (\"PNP0501\")",
        "0x0000200000000000",
        "0x0011",
    ]) {
        assert!(source.contains(word), "{word} is not in\n{source}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
