use std::os::fd::OwnedFd;

use protocol::{RegionFlags, RegionIndex, SparseArea};
use rustix::fs::MemfdFlags;

use super::*;

fn memfd(bytes: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fd
}

fn region(fd: Option<OwnedFd>, areas: &[(u64, u64)]) -> RegionInfo {
    let areas = areas
        .iter()
        .map(|(offset, size)| SparseArea {
            offset: *offset,
            size: *size,
        })
        .collect();
    let flags = RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP;
    RegionInfo {
        index: RegionIndex::BAR0,
        flags,
        size: 0x4000,
        offset: 0,
        areas,
        fd: fd.map(Into::into),
    }
}

#[test]
fn pages_of_the_msix_table_and_pending_bits_are_left_out() {
    let table = 0x2000..0x2410;
    let pending = 0x3000..0x3010;
    assert_eq!(without_pages(0, 0x4000, &[table, pending]), [(0, 0x2000)]);
    let table = 0x1800..0x1810;
    assert_eq!(
        without_pages(0, 0x4000, &[table]),
        [(0, 0x1000), (0x2000, 0x2000)]
    );
    let everything = 0..0x4000;
    assert_eq!(without_pages(0x1000, 0x1000, &[everything]), []);
}

#[test]
fn areas_are_mapped_and_the_rest_is_not() {
    let table = 0x2000..0x2410;
    let mapped = map_areas(region(Some(memfd(0x4000)), &[(0, 0x4000)]), &[table]).unwrap();
    let found: Vec<_> = mapped
        .iter()
        .map(|area| (area.offset, area.mapping.len_bytes()))
        .collect();
    assert_eq!(found, [(0, 0x2000), (0x3000, 0x1000)]);
}

#[test]
fn mappable_region_without_a_descriptor_is_refused() {
    let refused = map_areas(region(None, &[(0, 0x4000)]), &[]).unwrap_err();
    assert!(matches!(refused, MapError::NoDescriptor(RegionIndex::BAR0)));
}

#[test]
fn file_that_ends_before_the_area_is_refused() {
    let refused = map_areas(region(Some(memfd(0x3000)), &[(0, 0x4000)]), &[]).unwrap_err();
    assert!(matches!(
        refused,
        MapError::TooShort {
            offset: 0,
            len: 0x4000,
            ..
        }
    ));
}

#[test]
fn area_whose_file_offset_overflows_is_refused() {
    let mut region = region(Some(memfd(0x4000)), &[(0x1000, 0x1000)]);
    region.offset = u64::MAX - 0xfff;
    assert!(matches!(
        map_areas(region, &[]),
        Err(MapError::TooShort { .. })
    ));
}

#[test]
fn eventfd_instead_of_a_file_is_refused() {
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    assert!(matches!(
        map_areas(region(Some(eventfd), &[(0, 0x1000)]), &[]),
        Err(MapError::Map { .. })
    ));
}

#[test]
fn d20_file_that_another_process_may_serve_is_refused() {
    // Of the kernel's file systems, one that is neither tmpfs nor hugetlbfs.
    let file = OwnedFd::from(std::fs::File::open("/proc/self/maps").unwrap());
    let refused = map_areas(region(Some(file), &[(0, 0x1000)]), &[]).unwrap_err();
    let MapError::File { source, .. } = refused else {
        panic!("{refused}");
    };
    assert!(matches!(source, BarFileError::NoMemory));
}

#[test]
fn d19_file_without_seals_is_taken() {
    let mapped = map_areas(region(Some(memfd(0x4000)), &[(0, 0x4000)]), &[]).unwrap();
    assert_eq!(mapped.len(), 1);
}

#[test]
fn window_holds_only_whole_ranges() {
    let window = AddressRange {
        start: 0xc000_0000,
        len: 0x1000_0000,
    };
    let range = |start, len| AddressRange { start, len };
    assert!(holds(window, range(0xc000_0000, 0x1000_0000)));
    assert!(!holds(window, range(0xcfff_f000, 0x2000)));
    assert!(!holds(window, range(0xbfff_f000, 0x2000)));
    assert!(!holds(window, range(u64::MAX - 0xfff, 0x2000)));
}
