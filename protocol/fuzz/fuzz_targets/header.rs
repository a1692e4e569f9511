//! Sixteen bytes are a header inside the limits or an error; a header writes itself back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::Header;
use protocol::limits::{HEADER_BYTES, MAX_MESSAGE_BYTES};

fuzz_target!(|data: &[u8]| {
    let Some(bytes) = data.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    if let Ok(header) = Header::parse(bytes, MAX_MESSAGE_BYTES) {
        assert!((16..=MAX_MESSAGE_BYTES).contains(&header.size));
        assert_eq!(header.body_bytes() + HEADER_BYTES, header.size as usize);
        assert_eq!(header.to_bytes(), *bytes);
        assert!((1..=4095).contains(&header.errno().raw_os_error()));
        let _text = header.command.to_string();
    }
});
