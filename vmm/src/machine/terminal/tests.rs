use super::EscapeFilter;

#[test]
fn typed_bytes_pass_and_control_a_x_ends() {
    let mut filter = EscapeFilter::default();
    assert_eq!(filter.filter(b"ls\r\x03"), (b"ls\r\x03".to_vec(), false));
    assert_eq!(filter.filter(b"a\x01xb"), (b"a".to_vec(), true));
}

#[test]
fn control_a_is_kept_over_two_reads() {
    let mut filter = EscapeFilter::default();
    assert_eq!(filter.filter(b"\x01"), (vec![], false));
    assert_eq!(filter.filter(b"x"), (vec![], true));
}

#[test]
fn control_a_before_another_byte_is_sent_with_it() {
    let mut filter = EscapeFilter::default();
    assert_eq!(filter.filter(b"\x01\x01"), (vec![1], false));
    assert_eq!(filter.filter(b"\x01d"), (vec![1, b'd'], false));
}
