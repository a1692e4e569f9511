//! SET_IRQS: rows Q01 to Q22, Q37.

use super::{EINVAL, OK, decode};
use crate::bytes;
use protocol::IrqData;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

fn irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    bytes![20u32, flags, index, start, count]
}

#[test]
fn q01_to_q12_set_irqs_ranges_and_flags() {
    assert_eq!(
        decode(8, &bytes![3u32, NONE | TRIGGER, 2u32, 0u32, 0u32], 0),
        EINVAL
    );
    for index in 0..5 {
        assert_eq!(decode(8, &irqs(NONE | TRIGGER, index, 0, 0), 0), OK);
        assert_eq!(decode(8, &irqs(NONE | TRIGGER, index, 0, 1), 0), OK);
        assert_eq!(decode(8, &irqs(NONE | TRIGGER, index, 1, 0), 0), EINVAL);
        assert_eq!(decode(8, &irqs(NONE | MASK, index, 0, 0), 0), EINVAL);
        assert_eq!(decode(8, &irqs(BOOL | TRIGGER, index, 0, 0), 0), EINVAL);
        assert_eq!(decode(8, &irqs(EVENTFD | TRIGGER, index, 0, 0), 0), EINVAL);
    }
    for index in [5, u32::MAX] {
        assert_eq!(decode(8, &irqs(NONE | TRIGGER, index, 0, 0), 0), EINVAL);
    }
    for flags in [
        0,
        NONE,
        TRIGGER,
        NONE | MASK | UNMASK,
        NONE | BOOL | TRIGGER,
        NONE | EVENTFD | TRIGGER,
        NONE | TRIGGER | 64,
        NONE | TRIGGER | 1 << 31,
    ] {
        assert_eq!(decode(8, &irqs(flags, 2, 0, 1), 0), EINVAL, "{flags:#x}");
    }
    assert_eq!(decode(8, &irqs(NONE | TRIGGER, 2, 2047, 1), 0), OK);
    assert_eq!(decode(8, &irqs(NONE | TRIGGER, 2, 2047, 2), 0), EINVAL);
    assert_eq!(
        decode(8, &irqs(NONE | TRIGGER, 2, 284, u32::MAX), 0),
        EINVAL
    );
    assert_eq!(decode(8, &irqs(NONE | TRIGGER, 1, 32, 1), 0), EINVAL);
}

#[test]
fn q15_q16_err_and_req_have_one_vector_and_no_mask() {
    for index in [3, 4] {
        assert_eq!(decode(8, &irqs(NONE | MASK, index, 0, 1), 0), EINVAL);
        assert_eq!(decode(8, &irqs(NONE | UNMASK, index, 0, 1), 0), EINVAL);
        assert_eq!(decode(8, &irqs(NONE | TRIGGER, index, 0, 2), 0), EINVAL);
        assert_eq!(decode(8, &irqs(EVENTFD | TRIGGER, index, 0, 1), 1), OK);
    }
}

#[test]
fn q17_q18_q19_bools_are_one_byte_each() {
    let with = |count: u32, bools: &[u8]| {
        let body = [irqs(BOOL | TRIGGER, 2, 0, count), bools.to_vec()].concat();
        decode(8, &body, 0)
    };
    assert_eq!(with(3, &[0, 1, 2]), OK);
    assert_eq!(with(3, &[0, 1]), EINVAL);
    assert_eq!(with(3, &[0, 1, 1, 1]), EINVAL);
    assert_eq!(with(u32::MAX, &[1]), EINVAL);
    let body = [irqs(BOOL | TRIGGER, 2, 0, 3), vec![0, 1, 2]].concat();
    let decoded = protocol::SetIrqs::decode_request(&body, vec![]).unwrap();
    assert!(matches!(decoded.data, IrqData::Bool(bools) if bools == [false, true, true]));
}

#[test]
fn q20_q21_q22_q37_descriptors_are_one_each_or_none() {
    assert_eq!(decode(8, &irqs(NONE | TRIGGER, 2, 0, 2), 2), EINVAL);
    let bools = [irqs(BOOL | TRIGGER, 2, 0, 2), vec![1, 1]].concat();
    assert_eq!(decode(8, &bools, 2), EINVAL);
    for (fds, expected) in [(0, OK), (1, EINVAL), (2, OK), (3, EINVAL)] {
        assert_eq!(decode(8, &irqs(EVENTFD | TRIGGER, 2, 5, 2), fds), expected);
    }
    assert_eq!(decode(8, &irqs(EVENTFD | UNMASK, 0, 0, 1), 1), OK);
    assert_eq!(decode(8, &irqs(EVENTFD | MASK, 0, 0, 1), 1), OK);
    assert_eq!(decode(8, &irqs(EVENTFD | TRIGGER, 2, 0, 16), 16), OK);
    assert_eq!(decode(8, &irqs(EVENTFD | TRIGGER, 2, 0, 17), 17), EINVAL);
}
