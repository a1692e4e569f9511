use super::*;

#[test]
fn write_changes_only_writable_bits() {
    let mut space = ConfigSpace::new();
    space.set(4, &[0x0f, 0xf0]);
    space.allow(4, &[0x03, 0x00]);
    space.write(4, &[0xf0, 0x0f]);
    assert_eq!(space.u16_at(4), 0xf00c);
}

#[test]
fn write_of_ones_clears_status_bits_and_zeros_keep_them() {
    let mut space = ConfigSpace::new();
    space.set(6, &[0x00, 0xf9]);
    space.allow_clear(6, &[0x00, 0xf9]);
    space.write(6, &[0xff, 0x80]);
    assert_eq!(space.u16_at(6), 0x7900);
}

#[test]
fn capabilities_form_a_list_in_the_order_they_were_added() {
    let mut space = ConfigSpace::new();
    let first = space.add_capability(0x10, &[0; 58]);
    let second = space.add_capability(0x05, &[0; 12]);
    assert_eq!(space.u16_at(6) & 0x10, 0x10);
    assert_eq!(u16::from(space.u32_at(0x34).to_le_bytes()[0]), first);
    assert_eq!(
        space.u16_at(first).to_le_bytes(),
        [0x10, second.to_le_bytes()[0]]
    );
    assert_eq!(space.u16_at(second).to_le_bytes(), [0x05, 0]);
}

#[test]
fn access_past_the_end_reads_ones_and_is_dropped() {
    let mut space = ConfigSpace::new();
    space.allow(0xffe, &[0xff, 0xff]);
    space.write(0xffe, &[1, 2, 3, 4]);
    assert_eq!(space.u32_at(0xffe), 0xffff_0201);
}
