//! DMA_MAP and DMA_UNMAP: what is taken is aligned, does not wrap and writes itself back.
#![no_main]

mod decode;
mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::{Command, DmaUnmap};

fuzz_target!(|data: &[u8]| {
    match decode::request(&[2, 3], data) {
        Some(Ok(Command::DmaMap(map))) => {
            let (start, len) = (map.range.start().0, map.range.len());
            assert_eq!((start | len | map.file_offset) & 0xfff, 0);
            assert_eq!(start + len, map.range.end().0);
            assert!(map.readable() || map.writable());
            assert!(i64::try_from(map.file_offset + len).is_ok());
        }
        Some(Ok(Command::DmaUnmap(unmap))) => {
            let mut bytes = Vec::new();
            unmap.encode(&mut bytes);
            assert_eq!(DmaUnmap::decode_request(&bytes), Ok(unmap));
            assert_eq!(unmap.check_reply(&bytes), Ok(()));
        }
        _ => {}
    }
});
