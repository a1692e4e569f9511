//! DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS, DEVICE_GET_IRQ_INFO and no command at all.
#![no_main]

mod decode;
mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::Command;

fuzz_target!(|data: &[u8]| {
    match decode::request(&[4, 5, 6, 7, 0, 11, 12, 13, 14, 19], data) {
        Some(Ok(Command::RegionInfo(request))) => assert!(request.argsz >= 32),
        Some(Ok(Command::RegionIoFds(request))) => {
            assert!((16..=1 << 20).contains(&request.argsz));
        }
        _ => {}
    }
});
