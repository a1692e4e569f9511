//! Queries and accesses: rows I01 to I23, R11 to R17, X03 to X08.

use super::{CONTEXT, EINVAL, MAX, OK, decode, decode_with};
use crate::bytes;
use protocol::DecodeContext;

#[test]
fn i01_to_i23_queries() {
    for (command, least, body_bytes) in [(4, 16u32, 16), (5, 32, 32), (7, 16, 16)] {
        for argsz in [0, 8, least - 1, least, 40, u32::MAX] {
            let mut body = bytes![argsz];
            body.resize(body_bytes, 0xff);
            let expected = if argsz < least { EINVAL } else { OK };
            assert_eq!(decode(command, &body, 0), expected, "{command} {argsz}");
        }
    }
    let io_fds =
        |argsz: u32, flags: u32, count: u32| decode(6, &bytes![argsz, flags, u32::MAX, count], 0);
    assert_eq!(io_fds(16, 0, 0), OK);
    assert_eq!(io_fds(1 << 20, 0, 0), OK);
    assert_eq!(io_fds(15, 0, 0), EINVAL);
    assert_eq!(io_fds((1 << 20) + 1, 0, 0), EINVAL);
    assert_eq!(io_fds(64, 1, 0), EINVAL);
    assert_eq!(io_fds(64, 0, 1), EINVAL);
}

#[test]
fn r11_to_r17_region_access() {
    let read = |count: u32| decode(9, &bytes![0u64, 0u32, count], 0);
    assert_eq!((read(0), read(MAX)), (OK, OK));
    assert_eq!((read(MAX + 1), read(u32::MAX)), (EINVAL, EINVAL));
    let small_client = DecodeContext {
        peer_max_data_xfer_size: 8,
        ..CONTEXT
    };
    let body = bytes![0u64, 0u32, 9u32];
    assert!(decode_with(9, &body, 0, &small_client).is_err(), "r14");
    let write = |count: u32, data: usize| {
        let mut body = bytes![u64::MAX, u32::MAX, count];
        body.resize(16 + data, 1);
        decode(10, &body, 0)
    };
    assert_eq!((write(0, 0), write(7, 7)), (OK, OK));
    assert_eq!((write(8, 7), write(7, 8)), (EINVAL, EINVAL));
    assert_eq!((write(u32::MAX, 4), write(0, 1)), (EINVAL, EINVAL));
    assert_eq!(write(MAX, MAX as usize), OK);
    assert_eq!(write(MAX + 1, MAX as usize + 1), EINVAL);
}

#[test]
fn x03_to_x08_write_multi() {
    let body = |count: u64, entries: &[u32]| {
        let mut body = bytes![count];
        for bytes in entries {
            body.extend(bytes![0u64, 0u32, *bytes, 0u64]);
        }
        decode(15, &body, 0)
    };
    assert_eq!(body(0, &[]), OK);
    assert_eq!(body(3, &[0, 4, 8]), OK);
    assert_eq!(body(1, &[4, 4]), OK);
    assert_eq!(body(3, &[4, 4]), EINVAL);
    assert_eq!(body(1 << 61, &[4]), EINVAL);
    assert_eq!(body(u64::MAX, &[4]), EINVAL);
    assert_eq!(body(2, &[4, 9]), EINVAL);
    assert_eq!(body(1, &[u32::MAX]), EINVAL);
    assert_eq!(decode(15, &[0; 7], 0), EINVAL);
}
