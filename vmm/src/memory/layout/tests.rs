use super::{ECAM, LayoutError, MMIO32, RAM_HIGH_START, RAM_LOW_END, RamRegion, place};

const GIB: u64 = 1 << 30;

#[test]
fn small_memory_is_one_piece_at_zero() {
    let layout = place(512 << 20, 4096, 40).unwrap();
    assert_eq!(
        layout.ram,
        [RamRegion {
            gpa: 0,
            len: 512 << 20,
            file_offset: 0
        }]
    );
    assert_eq!((layout.mmio64.start, layout.mmio64.len), (1 << 39, 1 << 39));
}

#[test]
fn memory_past_the_pci_hole_continues_at_4_gib() {
    let layout = place(4 * GIB, 4096, 46).unwrap();
    let high = RamRegion {
        gpa: RAM_HIGH_START,
        len: 4 * GIB - RAM_LOW_END,
        file_offset: RAM_LOW_END,
    };
    assert_eq!(
        layout.ram,
        [
            RamRegion {
                gpa: 0,
                len: RAM_LOW_END,
                file_offset: 0
            },
            high
        ]
    );
}

#[test]
fn gigabyte_pages_split_at_a_page_border() {
    let layout = place(4 * GIB, GIB, 46).unwrap();
    assert_eq!(layout.ram[0].len, 2 * GIB);
    assert_eq!(
        layout.ram[1],
        RamRegion {
            gpa: RAM_HIGH_START,
            len: 2 * GIB,
            file_offset: 2 * GIB
        }
    );
}

#[test]
fn memory_up_to_the_64_bit_window_fits_and_one_page_more_does_not() {
    let limit = 32 * GIB - RAM_HIGH_START + RAM_LOW_END;
    place(limit, 4096, 36).unwrap();
    let refused = place(limit + 4096, 4096, 36).unwrap_err();
    assert_eq!(
        refused,
        LayoutError::TooMuchMemory {
            size_bytes: limit + 4096,
            limit_bytes: limit,
            physical_bits: 36
        }
    );
}

#[test]
fn wide_cpus_are_cut_to_46_bits_and_narrow_ones_refused() {
    assert_eq!(place(GIB, 4096, 52).unwrap().mmio64.start, 1 << 45);
    assert_eq!(
        place(GIB, 4096, 32).unwrap_err(),
        LayoutError::TooFewBits(32)
    );
}

#[test]
fn windows_below_4_gib_follow_each_other() {
    assert_eq!(ECAM.start + ECAM.len, MMIO32.start);
    assert_eq!(MMIO32.start + MMIO32.len, 0xfc00_0000);
}
