//! VERSION with its JSON, as a request and as an answer. What was read writes and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::Version;

fuzz_target!(|data: &[u8]| {
    if let Ok(version) = Version::decode_request(data) {
        let capabilities = version.capabilities;
        assert!(capabilities.max_data_xfer_size > 0 && capabilities.max_data_xfer_size <= 1 << 20);
        assert!(capabilities.max_msg_fds <= 253 && capabilities.pgsizes.trailing_zeros() >= 12);
    }
    if let Ok(version) = Version::decode_reply(data) {
        let mut bytes = Vec::new();
        version.encode(&mut bytes);
        assert_eq!(Version::decode_reply(&bytes), Ok(version));
    }
});
