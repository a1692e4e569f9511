use super::*;
use std::fs::File;
use std::os::fd::OwnedFd;

fn entry(offset: u64, size: u64, flags: u32) -> IoFd {
    IoFd {
        offset,
        size,
        fd_index: 0,
        flags,
        kind: IoFdKind::IoEventFd { datamatch: 7 },
    }
}

fn found(entries: Vec<IoFd>) -> IoFds {
    let file = File::open("/dev/null").expect("/dev/null");
    IoFds {
        entries,
        fds: vec![OwnedFd::from(file).into()],
    }
}

#[test]
fn value_of_a_doorbell_counts_when_its_flag_says_so() {
    let entries = vec![entry(0, 4, 0), entry(4, 4, IoFd::DATAMATCH)];
    let bells: Vec<_> = of_bar(2, found(entries), &[]).collect();
    let values: Vec<_> = bells.iter().map(|bell| bell.datamatch).collect();
    assert_eq!(values, [None, Some(7)]);
}

#[test]
fn doorbell_over_the_msix_table_is_left_out() {
    let table = [(2, 0x100..0x200)];
    let entries = vec![entry(0xfc, 4, 0), entry(0xfc, 8, 0), entry(0x1ff, 0, 0)];
    let bells: Vec<_> = of_bar(2, found(entries), &table).collect();
    assert_eq!(bells.len(), 1);
    assert_eq!((bells[0].offset, bells[0].width), (0xfc, 4));
    // Another BAR's table is nothing to it.
    assert_eq!(
        of_bar(3, found(vec![entry(0x100, 4, 0)]), &table).count(),
        1
    );
}

#[test]
fn ioregionfd_is_left_out() {
    let mut region = entry(0, 4, 0);
    region.kind = IoFdKind::IoRegionFd { user_data: 0 };
    assert_eq!(of_bar(2, found(vec![region]), &[]).count(), 0);
}
