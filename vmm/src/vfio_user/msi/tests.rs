use super::*;

const LAYOUT: MsiLayout = MsiLayout {
    offset: 0x50,
    vectors: 8,
    wide: true,
    masking: true,
};

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new();
    // As a device that offers 32 vectors and was left enabled would show it.
    space.set(0x50, &[0x05, 0x60, 0xdb, 0x01, 1, 2, 3, 4]);
    set_up(&mut space, &LAYOUT);
    space
}

#[test]
fn set_up_offers_the_given_vectors_and_is_off() {
    let space = space();
    assert_eq!(space.u16_at(0x52), 0x0186);
    assert_eq!(space.u32_at(0x54), 0);
    assert_eq!(state(&space, &LAYOUT), None);
}

#[test]
fn four_vectors_differ_in_the_low_bits_of_the_data() {
    let mut space = space();
    space.write(0x54, &0xfee0_0000u32.to_le_bytes());
    space.write(0x58, &1u32.to_le_bytes());
    space.write(0x5c, &0x4043u16.to_le_bytes());
    space.write(0x60, &0x2u32.to_le_bytes());
    space.write(0x52, &0x00a1u16.to_le_bytes());
    let state = state(&space, &LAYOUT).unwrap();
    let data: Vec<u32> = state.messages.iter().map(|message| message.data).collect();
    assert_eq!(data, [0x4040, 0x4041, 0x4042, 0x4043]);
    assert_eq!(state.messages[0].address, 0x1_fee0_0000);
    assert_eq!(state.masked, 2);
}

#[test]
fn more_vectors_than_offered_are_cut() {
    let mut space = space();
    space.write(0x52, &0x0071u16.to_le_bytes());
    assert_eq!(state(&space, &LAYOUT).unwrap().messages.len(), 8);
}

#[test]
fn mask_register_has_only_the_offered_vectors() {
    let mut space = space();
    space.write(0x60, &[0xff; 4]);
    assert_eq!(space.u32_at(0x60), 0xff);
    assert_eq!(pending_offset(&LAYOUT), Some(0x64));
}

#[test]
fn narrow_capability_without_masking_has_its_data_at_8() {
    let layout = MsiLayout {
        offset: 0x50,
        vectors: 1,
        wide: false,
        masking: false,
    };
    let mut space = ConfigSpace::new();
    set_up(&mut space, &layout);
    space.write(0x58, &0x41u16.to_le_bytes());
    space.write(0x52, &1u16.to_le_bytes());
    assert_eq!(state(&space, &layout).unwrap().messages[0].data, 0x41);
    assert_eq!(pending_offset(&layout), None);
}
