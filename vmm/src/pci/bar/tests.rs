use super::*;
use proptest::prelude::*;

fn one(kind: BarKind, size: u64) -> Bars {
    let index = if kind == BarKind::Rom { ROM } else { 0 };
    Bars::new(&[BarRequest { index, kind, size }]).unwrap()
}

const MEM32: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const MEM64: BarKind = BarKind::Memory64 { prefetchable: true };

#[test]
fn sizing_a_32_bit_bar_answers_the_mask_and_the_flags() {
    let mut bars = one(MEM32, 0x4000);
    bars.write(0, 0xffff_ffff);
    assert_eq!(bars.read(0), 0xffff_c000);
}

#[test]
fn sizing_a_64_bit_bar_of_8_gib_spans_both_registers() {
    let mut bars = one(MEM64, 8 << 30);
    bars.write(0, 0xffff_ffff);
    bars.write(1, 0xffff_ffff);
    assert_eq!((bars.read(0), bars.read(1)), (0xc, 0xffff_fffe));
}

#[test]
fn sizing_a_64_bit_bar_of_16_kib_has_a_full_upper_half() {
    let mut bars = one(MEM64, 0x4000);
    bars.write(0, 0xffff_ffff);
    bars.write(1, 0xffff_ffff);
    assert_eq!((bars.read(0), bars.read(1)), (0xffff_c00c, 0xffff_ffff));
}

#[test]
fn sizing_an_io_bar_answers_bit_zero() {
    let mut bars = one(BarKind::Io, 32);
    bars.write(0, 0xffff_ffff);
    assert_eq!(bars.read(0), 0xffff_ffe1);
}

#[test]
fn rom_decodes_only_with_its_own_enable_bit() {
    let mut bars = one(BarKind::Rom, 0x4_0000);
    bars.write(ROM, 0xc000_0000);
    assert_eq!(bars.decoded(COMMAND_MEMORY), vec![]);
    bars.write(ROM, 0xc000_0001);
    assert_eq!(
        bars.decoded(COMMAND_MEMORY)[0].range,
        AddressRange {
            start: 0xc000_0000,
            len: 0x4_0000
        }
    );
    assert_eq!(bars.decoded(COMMAND_IO), vec![]);
}

#[test]
fn memory_and_io_follow_their_own_command_bits() {
    let io = BarRequest {
        index: 2,
        kind: BarKind::Io,
        size: 32,
    };
    let memory = BarRequest {
        index: 0,
        kind: MEM32,
        size: 0x1000,
    };
    let mut bars = Bars::new(&[memory, io]).unwrap();
    bars.write(0, 0xc000_0000);
    bars.write(2, 0x1000);
    assert_eq!(bars.decoded(0), vec![]);
    assert!(bars.decoded(COMMAND_IO)[0].io);
    assert_eq!(bars.decoded(COMMAND_MEMORY)[0].index, 0);
    assert_eq!(bars.decoded(COMMAND_IO | COMMAND_MEMORY).len(), 2);
}

#[test]
fn absent_registers_read_zero_whatever_is_written() {
    let mut bars = one(MEM32, 0x1000);
    bars.write(3, 0xffff_ffff);
    bars.write(ROM, 0xffff_ffff);
    bars.write(200, 1);
    assert_eq!((bars.read(3), bars.read(ROM), bars.read(200)), (0, 0, 0));
}

#[test]
fn sizes_that_cannot_be_decoded_are_refused() {
    for (kind, size) in [
        (MEM32, 0),
        (MEM32, 8),
        (MEM32, 0x3000),
        (MEM64, 2 << 40),
        (MEM64, u64::MAX),
        (BarKind::Io, 2),
        (BarKind::Io, 1 << 17),
    ] {
        let refused = Bars::new(&[BarRequest {
            index: 0,
            kind,
            size,
        }]);
        assert!(
            matches!(refused, Err(BarError::Size { .. })),
            "{kind:?} {size:#x}"
        );
    }
}

#[test]
fn overlapping_registers_are_refused() {
    let wide = BarRequest {
        index: 0,
        kind: MEM64,
        size: 0x1000,
    };
    let inside = BarRequest {
        index: 1,
        kind: MEM32,
        size: 0x1000,
    };
    let last = BarRequest {
        index: 5,
        kind: MEM64,
        size: 0x1000,
    };
    let rom = BarRequest {
        index: 0,
        kind: BarKind::Rom,
        size: 0x1000,
    };
    assert_eq!(
        Bars::new(&[wide, inside]).unwrap_err(),
        BarError::Taken { index: 1 }
    );
    assert_eq!(
        Bars::new(&[last]).unwrap_err(),
        BarError::NoRegister { index: 5 }
    );
    assert_eq!(
        Bars::new(&[rom]).unwrap_err(),
        BarError::NoRegister { index: 0 }
    );
}

proptest! {
    #[test]
    fn any_write_decodes_to_a_naturally_aligned_range(power in 4u32..41, low: u32, high: u32) {
        let mut bars = one(MEM64, 1 << power);
        bars.write(0, low);
        bars.write(1, high);
        let decoded = bars.decoded(COMMAND_MEMORY)[0];
        prop_assert_eq!(decoded.range.start % (1 << power), 0);
        prop_assert_eq!(bars.read(0) & 0xf, 0xc);
    }
}
