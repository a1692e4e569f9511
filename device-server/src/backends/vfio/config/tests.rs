use super::*;

/// A device with VPD at 0x40, MSI (64-bit, maskable) at 0x50, PCI Express at 0x70, MSI-X at 0xb0 and AER at 0x100.
fn filter() -> ConfigFilter {
    let mut bytes = vec![0u8; 4096];
    bytes[0x04..0x06].copy_from_slice(&0x0107u16.to_le_bytes()); // SERR, bus master, memory, I/O
    bytes[0x06] = 0x10;
    bytes[0x34] = 0x40;
    bytes[0x40..0x44].copy_from_slice(&[0x03, 0x50, 0x00, 0x80]);
    bytes[0x50..0x54].copy_from_slice(&[0x05, 0x70, 0x80, 0x01]);
    bytes[0x70..0x72].copy_from_slice(&[0x10, 0xb0]);
    bytes[0x78..0x7a].copy_from_slice(&0x2810u16.to_le_bytes());
    bytes[0xb0..0xb2].copy_from_slice(&[0x11, 0x00]);
    bytes[0x100..0x104].copy_from_slice(&0x0001_0001u32.to_le_bytes());
    ConfigFilter::new(ConfigCopy::new(bytes))
}

fn write(offset: u64, data: &[u8]) -> ConfigWrite {
    ConfigWrite {
        offset,
        data: data.to_vec(),
    }
}

#[test]
fn command_write_keeps_the_hosts_parity_and_serr() {
    // The client sets parity and clears SERR: neither happens; bus master off and INTx disable do.
    assert_eq!(
        filter().pass(0x04, &[0x43, 0x04]),
        [write(0x04, &[0x03, 0x05])]
    );
}

#[test]
fn bar_and_interrupt_line_writes_pass_unchanged() {
    assert_eq!(filter().pass(0x10, &[0xff; 4]), [write(0x10, &[0xff; 4])]);
    assert_eq!(
        filter().pass(0x30, &[0x00, 0xf8, 0xff, 0xff]),
        [write(0x30, &[0x00, 0xf8, 0xff, 0xff])]
    );
    assert_eq!(filter().pass(0x3c, &[0x0b]), [write(0x3c, &[0x0b])]);
}

#[test]
fn bist_write_is_dropped_and_its_neighbours_pass() {
    assert_eq!(filter().pass(0x0f, &[0x40]), []);
    assert_eq!(
        filter().pass(0x0c, &[0x10, 0x20, 0x00, 0x40]),
        [
            write(0x0c, &[0x10]),
            write(0x0d, &[0x20]),
            write(0x0e, &[0x00])
        ]
    );
}

#[test]
fn msi_capability_writes_are_dropped_to_its_last_byte() {
    assert_eq!(filter().pass(0x52, &[0x01, 0x00]), []);
    assert_eq!(filter().pass(0x54, &[0xff; 8]), []);
    assert_eq!(filter().pass(0x64, &[0xff; 4]), []);
    assert_eq!(filter().pass(0x68, &[0xff; 4]), [write(0x68, &[0xff; 4])]);
}

#[test]
fn msix_enable_write_that_starts_before_the_capability_is_dropped() {
    // A dword over id, next and control: only id and next arrive, which VFIO ignores.
    assert_eq!(
        filter().pass(0xb0, &[0x11, 0x00, 0x00, 0x80]),
        [write(0xb0, &[0x11]), write(0xb1, &[0x00])]
    );
    assert_eq!(filter().pass(0xb3, &[0x80]), []);
}

#[test]
fn unaligned_write_is_split_and_each_part_filtered() {
    assert_eq!(
        filter().pass(0xaf, &[1, 2, 3, 4, 5]),
        [write(0xaf, &[1]), write(0xb0, &[2]), write(0xb1, &[3])]
    );
}

#[test]
fn express_error_reporting_stays_and_flr_passes() {
    assert_eq!(
        filter().pass(0x78, &[0x0f, 0xa8]),
        [write(0x78, &[0x00, 0xa8])]
    );
}

#[test]
fn aer_writes_are_dropped() {
    assert_eq!(filter().pass(0x108, &[0xff; 4]), []);
    assert_eq!(filter().pass(0x144, &[0xff; 4]), []);
    assert_eq!(filter().pass(0x148, &[0xff; 4]), [write(0x148, &[0xff; 4])]);
}

#[test]
fn vpd_read_passes_and_vpd_write_becomes_a_read() {
    assert_eq!(
        filter().pass(0x42, &[0x10, 0x00]),
        [write(0x42, &[0x10, 0x00])]
    );
    assert_eq!(
        filter().pass(0x42, &[0x10, 0x80]),
        [write(0x42, &[0x10, 0x00])]
    );
}

#[test]
fn write_past_the_end_reaches_nothing() {
    assert_eq!(
        filter().pass(0xffc, &[1, 2, 3, 4, 5]),
        [write(0xffc, &[1, 2, 3, 4])]
    );
    assert_eq!(filter().pass(u64::MAX, &[1]), []);
}
