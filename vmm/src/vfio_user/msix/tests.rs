use super::*;

fn read32(table: &MsixTable, offset: u64) -> u32 {
    let mut data = [0; 4];
    table.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn new_table_is_masked_and_nothing_is_programmed() {
    let table = MsixTable::new(5);
    assert_eq!((table.vectors(), table.programmed()), (5, 0));
    assert!((0..5).all(|vector| table.entry(vector).unwrap().masked));
    assert_eq!(table.entry(5), None);
}

#[test]
fn entry_is_what_the_guest_wrote_without_reserved_bits() {
    let mut table = MsixTable::new(2);
    assert_eq!(table.write(16, &0xfee0_1003u32.to_le_bytes()), 1..2);
    table.write(24, &0x4022u32.to_le_bytes());
    assert_eq!(table.write(28, &0xffff_fffeu32.to_le_bytes()), 1..2);
    let entry = table.entry(1).unwrap();
    assert_eq!(
        entry.message,
        MsiMessage {
            address: 0xfee0_1000,
            data: 0x4022
        }
    );
    assert!(!entry.masked);
    assert_eq!(read32(&table, 28), 0);
    assert_eq!(table.programmed(), 2);
}

#[test]
fn eight_byte_write_touches_one_vector_and_a_wide_one_two() {
    let mut table = MsixTable::new(4);
    assert_eq!(table.write(8, &[0; 8]), 0..1);
    assert_eq!(table.write(12, &[0; 8]), 0..2);
    assert!(!table.entry(0).unwrap().masked);
}

#[test]
fn access_past_the_end_is_dropped_and_reads_ones() {
    let mut table = MsixTable::new(1);
    assert!(table.write(16, &[0; 4]).is_empty());
    assert!(table.write(u64::MAX, &[0; 4]).is_empty());
    assert_eq!(read32(&table, 14), 0xffff_0000);
    assert_eq!(table.entry(1), None);
}

#[test]
fn pending_bits_are_one_per_vector() {
    let mut data = [0; 8];
    read_pending(0, &mut data, |vector| [0, 9, 63].contains(&vector));
    assert_eq!(data, [1, 2, 0, 0, 0, 0, 0, 0x80]);
    let mut byte = [0];
    read_pending(1, &mut byte, |vector| vector == 9);
    assert_eq!(byte, [2]);
}
