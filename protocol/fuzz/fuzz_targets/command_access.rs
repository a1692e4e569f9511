//! REGION_READ, REGION_WRITE and REGION_WRITE_MULTI: data is what the count says, and within the limits.
#![no_main]

mod decode;
mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::Command;

fuzz_target!(|data: &[u8]| {
    match decode::request(&[9, 10, 15], data) {
        Some(Ok(Command::RegionRead(access))) => assert!(access.count <= 1 << 20),
        Some(Ok(Command::RegionWrite(write))) => assert!(write.data.len() < data.len()),
        Some(Ok(Command::RegionWriteMulti(multi))) => {
            assert!(multi.entries().all(|entry| entry.data.len() <= 8));
            assert!(multi.entries().count() <= data.len() / 24);
        }
        _ => {}
    }
});
