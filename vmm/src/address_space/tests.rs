use std::sync::{Arc, Mutex};

use super::{AddressRange, AddressSpace, Trap};

/// Reads give the offset in every byte; writes are kept.
#[derive(Default)]
struct Probe {
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Trap for Probe {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset).unwrap());
    }
    fn write(&self, offset: u64, data: &[u8]) {
        self.writes.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn range(start: u64, len: u64) -> AddressRange {
    AddressRange { start, len }
}

#[test]
fn read_where_nothing_answers_gives_all_ones() {
    let space = AddressSpace::default();
    let mut data = [0; 4];
    space.read(0x1000, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn access_inside_a_range_gets_its_offset() {
    let space = AddressSpace::default();
    let probe = Arc::new(Probe::default());
    space.insert(range(0x1000, 0x10), probe.clone()).unwrap();
    let mut data = [0; 2];
    space.read(0x1004, &mut data);
    space.write(0x100e, &[7, 8]);
    assert_eq!(data, [4, 4]);
    assert_eq!(*probe.writes.lock().unwrap(), [(0xe, vec![7, 8])]);
}

#[test]
fn access_across_the_end_is_cut_there() {
    let space = AddressSpace::default();
    let probe = Arc::new(Probe::default());
    space.insert(range(0x1000, 0x10), probe.clone()).unwrap();
    let mut data = [0; 4];
    space.read(0x100e, &mut data);
    space.write(0x100f, &[1, 2]);
    assert_eq!(data, [0xe, 0xe, 0xff, 0xff]);
    assert_eq!(*probe.writes.lock().unwrap(), [(0xf, vec![1])]);
}

#[test]
fn overlapping_empty_and_wrapping_ranges_are_refused() {
    let space = AddressSpace::default();
    let probe: Arc<dyn Trap> = Arc::new(Probe::default());
    space.insert(range(0x1000, 0x10), probe.clone()).unwrap();
    for (start, len) in [
        (0x1000, 1),
        (0x100f, 4),
        (0xfff, 2),
        (0, 0x4000),
        (0x5000, 0),
        (u64::MAX, 2),
    ] {
        assert!(
            space.insert(range(start, len), probe.clone()).is_err(),
            "{start:#x}+{len:#x}"
        );
    }
    space.insert(range(0x1010, 1), probe.clone()).unwrap();
    space.insert(range(u64::MAX, 1), probe).unwrap();
}

#[test]
fn removed_range_answers_no_more_and_can_be_taken_again() {
    let space = AddressSpace::default();
    let probe = Arc::new(Probe::default());
    space.insert(range(0x1000, 0x10), probe.clone()).unwrap();
    space.remove(0x1000);
    let mut data = [0];
    space.read(0x1000, &mut data);
    assert_eq!(data, [0xff]);
    space.insert(range(0x1000, 0x20), probe).unwrap();
}

#[test]
fn exact_register_wins_only_for_its_own_width() {
    let space = AddressSpace::default();
    let (dword, byte) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
    space.insert(range(0xcf8, 4), dword.clone()).unwrap();
    space.insert_exact(0xcf9, 1, byte.clone());
    space.write(0xcf9, &[6]);
    space.write(0xcf8, &[1, 2, 3, 4]);
    space.write(0xcf9, &[1, 2]);
    assert_eq!(*byte.writes.lock().unwrap(), [(0, vec![6])]);
    assert_eq!(
        *dword.writes.lock().unwrap(),
        [(0, vec![1, 2, 3, 4]), (1, vec![1, 2])]
    );
}
