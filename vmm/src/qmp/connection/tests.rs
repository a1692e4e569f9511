use super::super::errors::Class;
use super::*;

fn negotiated() -> Connection {
    let mut connection = Connection::new();
    connection.received(br#"{"execute":"qmp_capabilities"}"#);
    let step = connection.next_step();
    assert!(matches!(step, Some(Step::Run(_))));
    connection.answer(None, Ok(json!({})));
    let queued = connection.output().len();
    connection.sent(queued);
    connection
}

fn refusal(connection: &mut Connection, text: &[u8]) -> QmpError {
    connection.received(text);
    match connection.next_step() {
        Some(Step::Refuse { error, .. }) => error,
        other => panic!("{other:?}"),
    }
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
    let error = refusal(&mut Connection::new(), br#"{"execute":"query-status"}"#);
    assert_eq!(error.class, Class::CommandNotFound);
    assert_eq!(
        error.desc,
        "Expecting capabilities negotiation with 'qmp_capabilities'"
    );
}

#[test]
fn second_negotiation_is_refused() {
    let error = refusal(&mut negotiated(), br#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(error.class, Class::CommandNotFound);
}

#[test]
fn events_before_negotiation_are_not_sent() {
    let mut connection = Connection::new();
    let greeting = connection.output().len();
    connection.event(&json!({"event": "STOP"}));
    assert_eq!(connection.output().len(), greeting);
}

#[test]
fn ninth_request_waits_for_the_first_answer() {
    let mut connection = negotiated();
    connection.received(&br#"{"execute":"query-status"}"#.repeat(MAX_STEPS_IN_FLIGHT + 1));
    for _ in 0..MAX_STEPS_IN_FLIGHT {
        assert!(connection.next_step().is_some());
    }
    assert_eq!(connection.next_step(), None);
    assert!(!connection.wants_input());
    connection.answer(None, Ok(json!({})));
    assert!(connection.next_step().is_some());
}

#[test]
fn junk_line_gets_one_error_and_the_next_line_is_served() {
    let mut connection = negotiated();
    let error = refusal(
        &mut connection,
        b"}{ junk [ \"\n{\"execute\":\"query-status\"}\n",
    );
    assert_eq!(error, QmpError::not_json());
    assert!(matches!(connection.next_step(), Some(Step::Run(_))));
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
