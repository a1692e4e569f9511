//! DEVICE_FEATURE and migration data: rows G02 to G28.

use super::{EINVAL, MAX, OK, decode};
use crate::bytes;
use protocol::Errno;

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;

fn feature(argsz: u32, flags: u32, data: &[u8]) -> Result<(), Errno> {
    decode(16, &[bytes![argsz, flags], data.to_vec()].concat(), 0)
}

#[test]
fn g02_to_g11_device_feature() {
    assert_eq!(decode(16, &[0; 4], 0), EINVAL);
    for flags in [
        1,
        1 | GET | SET,
        1 | GET | 1 << 19,
        99 | GET,
        1 | SET,
        7 | GET,
        1 | PROBE,
    ] {
        assert_eq!(feature(4096, flags, &[0; 64]), EINVAL, "{flags:#x}");
    }
    for flags in [1 | GET | PROBE, 2 | GET | SET | PROBE, 99 | GET | PROBE] {
        assert_eq!(feature(8, flags, &[]), OK);
        assert_eq!(feature(7, flags, &[]), EINVAL);
    }
    assert_eq!(
        (feature(16, 1 | GET, &[]), feature(15, 1 | GET, &[])),
        (OK, EINVAL)
    );
    assert_eq!(
        (feature(16, 2 | GET, &[]), feature(15, 2 | GET, &[])),
        (OK, EINVAL)
    );
    assert_eq!(feature(16, 2 | SET, &[]), EINVAL);
    assert_eq!(feature(16, 2 | SET, &[1, 0, 0, 0]), EINVAL);
    for state in [1u32, 2, 3, 4, 6] {
        assert_eq!(feature(16, 2 | SET, &bytes![state, 0u32]), OK);
        assert_eq!(feature(15, 2 | SET, &bytes![state, 0u32]), EINVAL);
    }
    for state in [0u32, 5, 7, 8, 9, 0xabcd, u32::MAX] {
        assert_eq!(feature(16, 2 | SET, &bytes![state, 0u32]), EINVAL);
    }
}

#[test]
fn g15_g16_g18_migration_data() {
    let read = |argsz: u32, size: u32| decode(17, &bytes![argsz, size], 0);
    assert_eq!((read(8, 0), read(4104, 4096)), (OK, OK));
    assert_eq!(
        (read(4103, 4096), read(u32::MAX, MAX + 1)),
        (EINVAL, EINVAL)
    );
    assert_eq!(read(0, u32::MAX), EINVAL);
    assert_eq!(decode(17, &[0; 4], 0), EINVAL);
    let write = |size: u32| decode(18, &[bytes![12u32, size], vec![1; 4]].concat(), 0);
    assert_eq!((write(4), write(0)), (OK, OK));
    assert_eq!((write(5), write(MAX + 1)), (EINVAL, EINVAL));
    assert_eq!(write(u32::MAX), EINVAL);
}

#[test]
fn g20_g21_g25_g28_dirty_page_logging() {
    let start = |page: u64, count: u32, ranges: &[(u64, u64)]| {
        let mut data = bytes![page, count, 0u32];
        for (iova, length) in ranges {
            data.extend(bytes![*iova, *length]);
        }
        feature(1 << 20, 6 | SET, &data)
    };
    assert_eq!(
        (start(4096, 0, &[]), start(1 << 21, 1, &[(0, 1)])),
        (OK, OK)
    );
    for page in [0, 3, 2048, 1 << 63] {
        assert_eq!(start(page, 0, &[]), EINVAL);
    }
    assert_eq!(start(4096, u32::MAX, &[(0, 1)]), EINVAL);
    assert_eq!(start(4096, 2, &[(0, 1)]), EINVAL);
    assert_eq!(start(4096, 1, &[(0, 0)]), EINVAL);
    assert_eq!(start(4096, 1, &[(u64::MAX, 2)]), EINVAL);
    let report =
        |argsz: u32, length: u64, page: u64| feature(argsz, 8 | GET, &bytes![0u64, length, page]);
    assert_eq!(
        (report(40, 0x1000, 4096), report(39, 0x1000, 4096)),
        (OK, EINVAL)
    );
    assert_eq!(
        (report(40, 64 * 4096, 4096), report(40, 65 * 4096, 4096)),
        (OK, EINVAL)
    );
    for (length, page) in [
        (0, 4096),
        (u64::MAX, 4096),
        (0x1000, 0),
        (0x1000, 3),
        (1 << 60, 4096),
    ] {
        assert_eq!(report(u32::MAX, length, page), EINVAL);
    }
}
