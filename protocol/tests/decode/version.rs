//! VERSION: rows V12 to V30.

use super::peers::version_body;
use super::{CONTEXT, EINVAL, OK, decode, decode_with};
use protocol::Errno;

fn version(json: &str) -> Result<(), Errno> {
    decode(1, &version_body(0, 0, json), 0)
}

fn capability(text: &str) -> Result<(), Errno> {
    version(&format!("{{\"capabilities\":{{{text}}}}}"))
}

#[test]
fn v12_to_v19_text_that_is_no_object() {
    let nested = "[".repeat(5000) + &"]".repeat(5000);
    let nested_object = "{\"capabilities\":".repeat(500) + "1" + &"}".repeat(500);
    for json in [
        "{}\0 ",
        "",
        "{",
        "\"",
        "{\"a\":1",
        "{} x",
        "{}{}",
        "[]",
        "1",
        "null",
        "{\"capabilities\":\"x\"}",
        "{\"capabilities\":null}",
        "{\"capabilities\":[]}",
        &nested,
        &nested_object,
    ] {
        assert_eq!(version(json), EINVAL, "{json:.40}");
    }
    assert_eq!(decode(1, b"\0\0\0\0{\"\xff\":1}\0", 0), EINVAL);
    assert_eq!(version(" {} \n"), OK);
}

#[test]
fn v20_to_v30_capabilities() {
    for text in [
        "\"max_msg_fds\":\"1\"",
        "\"max_msg_fds\":-1",
        "\"max_msg_fds\":1.5",
        "\"max_msg_fds\":null",
        "\"max_data_xfer_size\":0",
        "\"max_data_xfer_size\":1e999",
        "\"pgsizes\":\"4096\"",
        "\"pgsizes\":0",
        "\"pgsizes\":3",
        "\"pgsizes\":4097",
        "\"migration\":\"x\"",
        "\"migration\":{\"pgsize\":\"x\"}",
        "\"migration\":{\"pgsize\":4095}",
        "\"twin_socket\":{\"supported\":\"yes\"}",
        "\"twin_socket\":true",
        "\"write_multiple\":1",
    ] {
        assert_eq!(capability(text), EINVAL, "{text}");
    }
    for text in [
        "\"max_msg_fds\":0",
        "\"max_msg_fds\":1025",
        "\"max_data_xfer_size\":1",
        "\"migration\":{}",
        "\"migration\":{\"pgsize\":4096,\"max_bitmap_size\":256}",
        "\"unknown\":{\"x\":[1]}",
        "\"max_msg_fds\":1,\"max_msg_fds\":2",
        "\"twin_socket\":{\"supported\":true,\"fd_index\":-7}",
    ] {
        assert_eq!(capability(text), OK, "{text}");
    }
}

#[test]
fn v21_v24_numbers_that_are_too_large_are_clamped() {
    let shown = |text: &str| {
        let body = version_body(0, 0, &format!("{{\"capabilities\":{{{text}}}}}"));
        decode_with(1, &body, 0, &CONTEXT).unwrap()
    };
    for number in ["4294967297", "18446744073709551616", "99999999999999999999"] {
        assert!(shown(&format!("\"max_msg_fds\":{number}")).contains("max_msg_fds: 253"));
        let text = shown(&format!("\"max_data_xfer_size\":{number}"));
        assert!(text.contains("max_data_xfer_size: 1048576"), "{text}");
    }
    let last = shown("\"max_msg_fds\":1,\"max_msg_fds\":2");
    assert!(last.contains("max_msg_fds: 2"));
}
