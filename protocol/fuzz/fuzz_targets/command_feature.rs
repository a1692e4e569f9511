//! DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE: bounded, and a feature writes itself back.
#![no_main]

mod decode;
mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::Command;
use protocol::messages::{DeviceFeature, Feature};

fuzz_target!(|data: &[u8]| {
    match decode::request(&[16, 17, 18], data) {
        Some(Ok(Command::DeviceFeature(request))) => {
            if let Feature::StartLogging { ranges, .. } = request.feature {
                assert!(ranges.iter().all(|range| range.end() > range.start()));
            }
            let mut bytes = Vec::new();
            request.feature.encode_request(request.argsz, &mut bytes);
            assert_eq!(DeviceFeature::decode_request(&bytes, 1 << 20), Ok(request));
        }
        Some(Ok(Command::MigDataRead(request))) => assert!(request.size <= 1 << 20),
        Some(Ok(Command::MigDataWrite(request))) => assert!(request.data.len() < data.len()),
        _ => {}
    }
});
