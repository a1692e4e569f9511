use super::{is_json, parse};

#[test]
fn qemu_form_gives_the_same_properties_as_the_plain_one() {
    let text = r#"{"driver":"vfio-user-pci","socket":{"path":"/run/x.sock","type":"unix"},"id":"d","multifunction":true,"port":3}"#;
    assert!(is_json(text));
    let mut list = parse(text).unwrap();
    assert_eq!(list.head, "vfio-user-pci");
    assert_eq!(list.take("socket").as_deref(), Some("/run/x.sock"));
    assert_eq!(list.take("id").as_deref(), Some("d"));
    assert_eq!(list.take_switch("multifunction"), Ok(Some(true)));
    assert_eq!(list.take("port").as_deref(), Some("3"));
    assert_eq!(list.finish(), Ok(()));
}

#[test]
fn socket_of_another_kind_or_with_more_keys_is_refused() {
    for socket in [
        r#"{"type":"inet","path":"/x"}"#,
        r#"{"path":"/x"}"#,
        r#"{"type":"unix"}"#,
        r#"{"type":"unix","path":"/x","abstract":true}"#,
    ] {
        let refused = parse(&format!(
            r#"{{"driver":"vfio-user-pci","socket":{socket}}}"#
        ))
        .unwrap_err();
        assert!(refused.0.starts_with("socket must be"), "{socket}");
    }
}

#[test]
fn broken_json_and_missing_driver_are_named() {
    assert!(
        parse(r#"{"driver":"#)
            .unwrap_err()
            .0
            .starts_with("not a JSON object")
    );
    assert!(
        parse(r#"{"id":"x"}"#)
            .unwrap_err()
            .0
            .starts_with("driver is missing")
    );
    assert!(
        parse(r#"{"driver":1}"#)
            .unwrap_err()
            .0
            .starts_with("driver must")
    );
    assert!(
        parse(r#"{"driver":"x","id":["a"]}"#)
            .unwrap_err()
            .0
            .starts_with("id must")
    );
}
