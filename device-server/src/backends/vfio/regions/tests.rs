use super::*;

const PAGE: u64 = 4096;

fn bar(size: u64) -> KernelRegion {
    KernelRegion {
        size,
        offset: 0,
        readable: true,
        writable: true,
        kernel_areas: whole(size),
    }
}

fn msix(table: (u32, u64, u64), pba: (u32, u64, u64)) -> Option<MsixPlaces> {
    let place = |(bar, offset, len)| BarPlace { bar, offset, len };
    Some(MsixPlaces {
        table: place(table),
        pba: place(pba),
    })
}

fn areas(list: &[(u64, u64)]) -> Vec<SparseArea> {
    list.iter()
        .map(|(offset, size)| SparseArea {
            offset: *offset,
            size: *size,
        })
        .collect()
}

#[test]
fn bar_without_msix_is_mappable_whole() {
    assert_eq!(
        mappable_areas(0, &bar(0x20000), None, PAGE),
        areas(&[(0, 0x20000)])
    );
}

#[test]
fn bar_smaller_than_a_page_is_not_mappable() {
    assert_eq!(mappable_areas(0, &bar(0x800), None, PAGE), areas(&[]));
}

#[test]
fn bar_that_the_kernel_does_not_map_is_not_mappable() {
    let io_bar = KernelRegion {
        kernel_areas: Vec::new(),
        ..bar(0x2000)
    };
    assert_eq!(mappable_areas(2, &io_bar, None, PAGE), areas(&[]));
}

#[test]
fn pages_of_the_msix_table_and_pba_are_left_out() {
    // QEMU's NVMe: 16 KiB BAR0, 65 vectors at 0x2000, pending bits at 0x3000.
    let places = msix((0, 0x2000, 65 * 16), (0, 0x3000, 16));
    assert_eq!(
        mappable_areas(0, &bar(0x4000), places, PAGE),
        areas(&[(0, 0x2000)])
    );
}

#[test]
fn msix_table_in_the_middle_leaves_two_areas() {
    let places = msix((0, 0x2008, 16), (0, 0x2ff8, 8));
    assert_eq!(
        mappable_areas(0, &bar(0x8000), places, PAGE),
        areas(&[(0, 0x2000), (0x3000, 0x5000)])
    );
}

#[test]
fn page_that_mixes_registers_and_table_stays_trapped() {
    let places = msix((0, 0x1ff8, 16), (1, 0, 8));
    assert_eq!(
        mappable_areas(0, &bar(0x4000), places, PAGE),
        areas(&[(0, 0x1000), (0x3000, 0x1000)])
    );
}

#[test]
fn msix_table_in_another_bar_changes_nothing() {
    let places = msix((3, 0, 80), (3, 0x2000, 8));
    assert_eq!(
        mappable_areas(0, &bar(0x20000), places, PAGE),
        areas(&[(0, 0x20000)])
    );
    assert_eq!(
        mappable_areas(3, &bar(0x4000), places, PAGE),
        areas(&[(0x1000, 0x1000), (0x3000, 0x1000)])
    );
}

#[test]
fn msix_table_outside_the_bar_cannot_overflow() {
    let places = msix((0, 0xffff_fff8, 0x8000), (0, 0xffff_fff8, 0x100));
    assert_eq!(
        mappable_areas(0, &bar(0x4000), places, PAGE),
        areas(&[(0, 0x4000)])
    );
}

#[test]
fn larger_host_pages_round_the_hole_out() {
    let places = msix((0, 0x2000, 65 * 16), (0, 0x3000, 16));
    assert_eq!(
        mappable_areas(0, &bar(0x4_0000), places, 0x1_0000),
        areas(&[(0x1_0000, 0x3_0000)])
    );
}

#[test]
fn kernel_areas_that_overlap_or_leave_the_region_are_trimmed() {
    let kernel_areas = areas(&[
        (0x3000, 0x9000),
        (0x800, 0x1800),
        (0x1000, 0x3000),
        (u64::MAX, 1),
    ]);
    let region = KernelRegion {
        kernel_areas,
        ..bar(0x8000)
    };
    assert_eq!(
        mappable_areas(0, &region, None, PAGE),
        areas(&[(0x1000, 0x1000), (0x2000, 0x2000), (0x4000, 0x4000)])
    );
}

#[test]
fn sparse_capability_is_found_behind_another() {
    let mut answer = vec![0u8; 32];
    answer.extend([3, 0, 1, 0, 40, 0, 0, 0]); // MSIX_MAPPABLE, next at 40
    answer.extend([1, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    for number in [0u64, 0x1000, 0x4000, 0x2000] {
        answer.extend(number.to_ne_bytes());
    }
    assert_eq!(
        sparse_areas(&answer, 32),
        Some(areas(&[(0, 0x1000), (0x4000, 0x2000)]))
    );
    assert_eq!(sparse_areas(&answer[..32], 32), None);
}

#[test]
fn capability_chain_that_loops_ends() {
    let mut answer = vec![0u8; 32];
    answer.extend([3, 0, 1, 0, 32, 0, 0, 0]);
    assert_eq!(sparse_areas(&answer, 32), None);
}
