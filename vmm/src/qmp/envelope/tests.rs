use super::super::errors::Class;
use super::*;

fn desc(text: &str) -> String {
    Request::parse(text.as_bytes()).unwrap_err().error.desc
}

#[test]
fn request_with_arguments_and_id_is_read() {
    let request =
        Request::parse(br#"{"execute":"device_del","arguments":{"id":"net"},"id":7}"#).unwrap();
    assert_eq!(request.execute, "device_del");
    assert_eq!(request.arguments.get("id"), Some(&json!("net")));
    assert_eq!(request.id, Some(json!(7)));
}

#[test]
fn array_is_refused_as_no_object() {
    assert_eq!(desc("[]"), "QMP input must be a JSON object");
}

#[test]
fn unknown_member_is_named() {
    assert_eq!(
        desc(r#"{"execute":"quit","foo":1}"#),
        "QMP input member 'foo' is unexpected"
    );
}

#[test]
fn missing_execute_is_named() {
    assert_eq!(desc("{}"), "QMP input lacks member 'execute'");
}

#[test]
fn arguments_of_another_type_are_refused() {
    assert_eq!(
        desc(r#"{"execute":"quit","arguments":[]}"#),
        "QMP input member 'arguments' must be an object"
    );
}

#[test]
fn bad_request_keeps_its_id() {
    assert_eq!(
        Request::parse(br#"{"id":"x"}"#).unwrap_err().id,
        Some(json!("x"))
    );
}

#[test]
fn text_that_is_no_json_names_what_is_wrong_and_where() {
    assert_eq!(
        desc(r#"{"execute" "quit"}"#),
        "JSON parse error, expected `:` at line 1 column 12"
    );
}

#[test]
fn member_that_comes_twice_is_refused() {
    for text in [
        r#"{"execute":"stop","execute":"quit"}"#,
        r#"{"execute":"stop","id":1,"id":2}"#,
        r#"{"execute":"device_del","arguments":{"id":"a","id":"b"}}"#,
    ] {
        let desc = desc(text);
        assert!(
            desc.starts_with("JSON parse error, duplicate key"),
            "{desc}"
        );
    }
}

#[test]
fn error_answer_carries_class_desc_and_id() {
    let error = QmpError {
        class: Class::DeviceNotFound,
        desc: "Device 'x' not found".to_owned(),
    };
    let expected =
        json!({"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": 1});
    assert_eq!(answer(Some(&json!(1)), Err(error)), expected);
}

#[test]
fn id_comes_back_whatever_it_is_and_however_often() {
    for id in [r#"{"a":[1,2.5,null]}"#, "null", "1", "1"] {
        let text = format!(r#"{{"execute":"query-status","id":{id}}}"#);
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!(request.id, Some(serde_json::from_str(id).unwrap()));
    }
}
