use super::*;

fn read<const N: usize>(space: &ConfigSpace, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    space.read(offset, &mut data).expect("inside the space");
    data
}

fn read_u32(space: &ConfigSpace, offset: u64) -> u32 {
    u32::from_le_bytes(read(space, offset))
}

#[test]
fn identity_is_read_only() {
    let mut space = ConfigSpace::new();
    space.write(0, &[0xff; 4]).expect("ignored");
    assert_eq!(read_u32(&space, 0), 0xb001_1d1d);
}

#[test]
fn r25_bar_size_probe_gives_the_mask_and_the_kind() {
    let mut space = ConfigSpace::new();
    for offset in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24] {
        space.write(offset, &[0xff; 4]).expect("a BAR");
    }
    assert_eq!(read_u32(&space, 0x10), 0xffe0_0000);
    assert_eq!(read_u32(&space, 0x14), 0xffff_f000);
    assert_eq!(read_u32(&space, 0x18), 0xffff_f004);
    assert_eq!(read_u32(&space, 0x1c), 0xffff_ffff);
    assert_eq!(read_u32(&space, 0x20), 0xffff_ffe1);
    assert_eq!(read_u32(&space, 0x24), 0);
}

#[test]
fn capability_list_ends_and_names_msi_msix_and_pcie() {
    let space = ConfigSpace::new();
    let mut ids = Vec::new();
    let [mut next] = read(&space, 0x34);
    while next != 0 && ids.len() < 10 {
        let [id, following] = read(&space, next.into());
        ids.push(id);
        next = following;
    }
    assert_eq!(ids, [0x05, 0x11, 0x10]);
}

#[test]
fn flr_bit_starts_a_reset_and_reads_as_zero() {
    let mut space = ConfigSpace::new();
    let control = u64::try_from(PCIE_DEVICE_CONTROL).expect("small");
    assert_eq!(
        space.write(control, &[0, 0x80]),
        Ok(ConfigEffect::FunctionLevelReset)
    );
    assert_eq!(read::<2>(&space, control), [0, 0]);
    assert_eq!(space.write(control, &[0x0f, 0]), Ok(ConfigEffect::None));
}

#[test]
fn command_register_keeps_what_a_driver_sets() {
    let mut space = ConfigSpace::new();
    space.write(4, &[0xff, 0xff]).expect("command");
    assert_eq!(read::<2>(&space, 4), [0x07, 0x05]);
    assert!(space.bus_master() && space.intx_disabled());
    space.show_intx_status(true);
    assert_eq!(read::<1>(&space, 6), [0x18]);
}
