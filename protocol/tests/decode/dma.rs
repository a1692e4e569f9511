//! DMA_MAP and DMA_UNMAP: rows M01 to M24, U02 to U18.

use super::{EINVAL, ENOSPC, OK, decode};
use crate::bytes;

/// argsz, flags, offset, address, size.
fn map(argsz: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    bytes![argsz, flags, offset, address, size]
}

#[test]
fn m01_to_m24_dma_map() {
    let page = 0x1000u64;
    let top = 1u64 << 63;
    let cases = [
        (OK, 1, map(32, 3, page, page, page)),
        (OK, 0, map(32, 1, 0, 0, page)),
        (EINVAL, 1, map(31, 3, 0, page, page)),
        (OK, 1, map(4096, 3, 0, page, page)),
        (EINVAL, 0, map(32, 3, 0, page, 0)),
        (EINVAL, 1, map(32, 3, 0, page, 0)),
        (EINVAL, 0, map(32, 3, 0, u64::MAX - 0xfff, 0x2000)),
        (EINVAL, 0, map(32, 3, 0, u64::MAX - 0xfff, page)),
        (EINVAL, 0, map(32, 3, 0, 0, u64::MAX)),
        (ENOSPC, 0, map(32, 3, 0, 0, (1 << 43) + page)),
        (OK, 0, map(32, 3, 0, 0, 1 << 43)),
        (EINVAL, 0, map(32, 3, 0, 0x800, page)),
        (EINVAL, 0, map(32, 3, 0, page, 0x800)),
        (EINVAL, 1, map(32, 3, 0x800, page, page)),
        (EINVAL, 1, map(32, 3, top, page, page)),
        (EINVAL, 1, map(32, 3, top - page, page, page)),
        (EINVAL, 1, map(32, 3, u64::MAX - 0xfff, page, page)),
        (OK, 0, map(32, 3, 0x123, page, page)),
        (EINVAL, 1, map(32, 0, 0, page, page)),
        (OK, 1, map(32, 2, 0, page, page)),
        (EINVAL, 1, map(32, 0x13, 0, page, page)),
        (EINVAL, 1, map(32, 0x8000_0003, 0, page, page)),
        (EINVAL, 1, map(32, 4 | 3, 0, page, page)),
        (EINVAL, 1, map(32, 8 | 3, 0, page, page)),
        (EINVAL, 0, map(32, 12 | 3, 0, page, page)),
        (EINVAL, 2, map(32, 3, 0, page, page)),
    ];
    for (expected, fds, body) in cases {
        assert_eq!(decode(2, &body, fds), expected, "{body:?} with {fds} fds");
    }
}

#[test]
fn u02_to_u18_dma_unmap() {
    let body =
        |argsz: u32, flags: u32, address: u64, size: u64| bytes![argsz, flags, address, size];
    let cases = [
        (OK, body(24, 0, 0x1000, 0x1000)),
        (EINVAL, body(8, 0, 0x1000, 0x1000)),
        (EINVAL, body(23, 0, 0x1000, 0x1000)),
        (OK, body(u32::MAX, 0, 0x1000, 0x1000)),
        (EINVAL, body(24, 0, 0x1000, 0)),
        (OK, body(24, 2, 0, 0)),
        (EINVAL, body(24, 2, 0x1000, 0)),
        (EINVAL, body(24, 2, 0, 0x1000)),
        (EINVAL, body(24, 3, 0, 0)),
        (EINVAL, body(24, 4, 0, 0)),
        (EINVAL, body(24, 0x8000_0000, 0, 0x1000)),
        (EINVAL, body(24, 1, 0, 0x1000)),
        (EINVAL, body(24, 0, u64::MAX, 0x1000)),
    ];
    for (expected, body) in cases {
        assert_eq!(decode(3, &body, 0), expected, "{body:?}");
    }
    let mut dirty = body(24 + 16, 1, 0x1000, 0x1000);
    dirty.extend(bytes![0x1000u64, u64::MAX]);
    assert_eq!(decode(3, &dirty, 0), EINVAL);
}
