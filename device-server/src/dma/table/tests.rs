use proptest::prelude::*;

use super::*;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).expect("a valid range")
}

fn table(ranges: &[(u64, u64)]) -> DmaTable<u32> {
    let mut table = DmaTable::new(100);
    for (start, len) in ranges {
        table.insert(range(*start, *len), 0).expect("no overlap");
    }
    table
}

#[test]
fn insert_overlapping_in_any_way_is_refused() {
    let table = table(&[(0x2000, 0x2000)]);
    let cases = [
        (0x2000, 0x2000),
        (0x1000, 0x2000),
        (0x3000, 0x2000),
        (0x1000, 0x5000),
        (0x2800, 0x100),
    ];
    for (start, len) in cases {
        assert_eq!(
            table.check_insert(range(start, len)),
            Err(DmaTableError::Overlap)
        );
    }
}

#[test]
fn insert_touching_neighbours_is_accepted() {
    let table = table(&[(0x2000, 0x2000), (0x1000, 0x1000), (0x4000, 0x1000)]);
    assert_eq!(table.len(), 3);
}

#[test]
fn insert_beyond_the_maximum_is_refused_and_the_rest_stays() {
    let mut table = DmaTable::new(1);
    table.insert(range(0, 0x1000), ()).expect("the first fits");
    assert_eq!(
        table.insert(range(0x1000, 0x1000), ()),
        Err(DmaTableError::Full)
    );
    assert!(table.contains_exactly(range(0, 0x1000)));
}

#[test]
fn remove_of_a_part_or_a_union_is_refused() {
    let mut table = table(&[(0x1000, 0x2000), (0x3000, 0x1000)]);
    for (start, len) in [
        (0x1000, 0x1000),
        (0x2000, 0x1000),
        (0x1000, 0x3000),
        (0x9000, 0x1000),
    ] {
        assert_eq!(
            table.remove(range(start, len)),
            Err(DmaTableError::NotMapped)
        );
    }
    assert_eq!(table.len(), 2);
}

#[test]
fn remove_then_insert_again_works() {
    let mut table = table(&[(0x1000, 0x1000)]);
    table.remove(range(0x1000, 0x1000)).expect("exact");
    table.insert(range(0x1000, 0x2000), 7).expect("free again");
    assert_eq!(table.find(Iova(0x2fff)).map(|(_, value)| *value), Some(7));
    assert!(table.find(Iova(0x3000)).is_none());
    assert!(table.find(Iova(0xfff)).is_none());
}

proptest! {
    /// Against a plain list with a linear search.
    #[test]
    fn table_agrees_with_a_list(steps in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..8), 0..80)) {
        let mut table = DmaTable::new(20);
        let mut list: Vec<IovaRange> = Vec::new();
        for (insert, start, len) in steps {
            let range = range(start, len);
            if insert {
                let expected = if list.iter().any(|other| other.overlaps(&range)) {
                    Err(DmaTableError::Overlap)
                } else if list.len() == 20 {
                    Err(DmaTableError::Full)
                } else {
                    list.push(range);
                    Ok(())
                };
                prop_assert_eq!(table.insert(range, ()), expected);
            } else {
                let before = list.len();
                list.retain(|other| *other != range);
                prop_assert_eq!(table.remove(range).is_ok(), list.len() < before);
            }
            for address in 0..50 {
                let expected = list.iter().find(|range| range.start().0 <= address && address < range.end().0);
                prop_assert_eq!(table.find(Iova(address)).map(|(range, ())| range), expected.copied());
            }
        }
    }
}
