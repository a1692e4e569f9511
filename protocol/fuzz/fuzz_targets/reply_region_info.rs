//! A server's description of a region with its chain of capabilities: areas that are believed can be mapped.
#![no_main]

mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::{RegionIndex, RegionInfo};

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let index = RegionIndex(u32::from(first & 0x0f));
    let fds = descriptors::descriptors(first >> 6);
    if let Ok(info) = RegionInfo::decode(body, index, fds) {
        let mut free_from = 0;
        for area in &info.areas {
            assert!(area.size > 0 && area.offset >= free_from);
            assert_eq!((area.offset | area.size) & 0xfff, 0);
            free_from = area.offset + area.size;
            assert!(free_from <= info.size);
            assert!(i64::try_from(info.offset + free_from).is_ok());
        }
    }
});
