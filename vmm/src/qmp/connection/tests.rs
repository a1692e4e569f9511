use super::*;

fn negotiated() -> Connection {
    let mut connection = Connection::new();
    connection.received(br#"{"execute":"qmp_capabilities"}"#);
    assert!(connection.next_request().is_some());
    connection.answer(None, Ok(json!({})));
    connection.request_ended();
    let queued = connection.output().len();
    connection.sent(queued);
    connection
}

/// What the client is answered at once.
fn answers(connection: &mut Connection, text: &[u8]) -> Vec<Value> {
    connection.sent(connection.output().len());
    connection.received(text);
    assert_eq!(connection.next_request(), None);
    let answered = String::from_utf8(connection.output().to_vec()).unwrap();
    connection.sent(answered.len());
    answered
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn greeting_is_sent_first() {
    let connection = Connection::new();
    let greeting: Value = serde_json::from_slice(connection.output()).unwrap();
    assert_eq!(greeting["QMP"]["capabilities"], json!([]));
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
}

#[test]
fn command_before_negotiation_is_refused_as_command_not_found() {
    let text = br#"{"execute":"query-status","id":4}"#;
    let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
    assert_eq!(
        answers(&mut Connection::new(), text),
        [json!({"error": {"class": "CommandNotFound", "desc": desc}, "id": 4})]
    );
}

#[test]
fn second_negotiation_is_refused() {
    let refused = answers(&mut negotiated(), br#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(refused[0]["error"]["class"], "CommandNotFound");
}

#[test]
fn events_before_negotiation_are_not_sent() {
    let mut connection = Connection::new();
    let greeting = connection.output().len();
    connection.event(&json!({"event": "STOP"}));
    assert_eq!(connection.output().len(), greeting);
}

#[test]
fn second_request_waits_until_the_first_is_done() {
    let mut connection = negotiated();
    connection.received(&br#"{"execute":"query-status"}"#.repeat(2));
    assert!(connection.next_request().is_some());
    assert_eq!(connection.next_request(), None);
    connection.answer(None, Ok(json!({})));
    assert_eq!(
        connection.next_request(),
        None,
        "what it leads to is not done"
    );
    connection.request_ended();
    assert!(connection.next_request().is_some());
}

#[test]
fn client_that_sends_more_than_it_reads_waits() {
    let mut connection = negotiated();
    connection.received(&b"]".repeat(MAX_REQUEST_BYTES));
    assert!(!connection.wants_input());
    assert_eq!(connection.next_request(), None);
    let queued = connection.output().len();
    assert!((PAUSE_OUTPUT_BYTES..PAUSE_OUTPUT_BYTES + 200).contains(&queued));
    assert!(!connection.overflowed());
    connection.sent(queued);
    assert_eq!(connection.next_request(), None);
    assert!(connection.output().len() >= PAUSE_OUTPUT_BYTES);
}

#[test]
fn request_that_is_no_json_gets_one_error_and_the_next_is_served() {
    for wrong in [
        r#"{"execute":query-name}"#,
        r#"{"execute":"query-name","id":1,"id":2}"#,
        r#"["execute"]"#,
    ] {
        let mut connection = negotiated();
        let refused = answers(&mut connection, wrong.as_bytes());
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0]["error"]["class"], "GenericError");
        connection.received(br#"{"execute":"query-status"}"#);
        assert!(connection.next_request().is_some());
    }
}

#[test]
fn client_that_never_reads_overflows() {
    let mut connection = negotiated();
    let event = json!({"event": "STOP", "data": "x".repeat(1000)});
    while !connection.overflowed() {
        connection.event(&event);
    }
    assert!(connection.output().len() <= MAX_OUTPUT_BYTES + 2000);
}
