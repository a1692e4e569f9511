use super::*;

fn pieces(input: &[u8]) -> Vec<Piece> {
    let (mut stream, mut rest, mut all) = (JsonStream::new(), input, Vec::new());
    while let Some(piece) = stream.push(&mut rest) {
        all.push(piece);
    }
    all
}

fn value(text: &str) -> Piece {
    Piece::Value(text.as_bytes().to_vec())
}

#[test]
fn values_without_space_between_are_cut_apart() {
    assert_eq!(
        pieces(br#"{"a":1}{"b":[2]}"#),
        [value(r#"{"a":1}"#), value(r#"{"b":[2]}"#)]
    );
}

#[test]
fn brackets_and_quotes_in_strings_do_not_count() {
    let text = r#"{"a":"}]\"{"}"#;
    assert_eq!(pieces(text.as_bytes()), [value(text)]);
}

#[test]
fn value_split_at_every_byte_is_the_same_value() {
    let text = br#" {"execute":"x","arguments":{"a":[1,"\\"]}} "#;
    for cut in 0..text.len() {
        let (first, second) = text.split_at(cut);
        let (mut stream, mut all) = (JsonStream::new(), Vec::new());
        for mut part in [first, second] {
            while let Some(piece) = stream.push(&mut part) {
                all.push(piece);
            }
        }
        assert_eq!(all, [Piece::Value(text.trim_ascii().to_vec())]);
    }
}

#[test]
fn junk_words_are_values_of_their_own() {
    assert_eq!(pieces(b"foo bar\n"), [value("foo"), value("bar")]);
}

#[test]
fn value_over_the_limit_is_reported_once_and_what_follows_it_is_read() {
    let long = "x".repeat(MAX_REQUEST_BYTES);
    for text in [
        format!(r#"{{"id":"{long}}}"}}"#),
        format!(r#"["{long}",{{"a":"\"]"}}]"#),
        format!(r#""{long}""#),
        format!("{long}x "),
        format!("[\n{{ {long}\n"),
    ] {
        let found = pieces(format!("{text}{{}}").as_bytes());
        let expected = [Piece::Broken(Broken::TooLong), value("{}")];
        assert!(found == expected, "after {}", &text[..20]);
    }
}

#[test]
fn value_over_the_nesting_limit_is_reported_once_and_what_follows_it_is_read() {
    let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(
        pieces(deep(MAX_NESTING).as_bytes()),
        [value(&deep(MAX_NESTING))]
    );
    let input = deep(MAX_NESTING + 1000) + "{}";
    assert_eq!(
        pieces(input.as_bytes()),
        [Piece::Broken(Broken::TooDeep), value("{}")]
    );
}

#[test]
fn after_a_stray_byte_the_next_bracket_or_line_starts_anew() {
    let stray = |byte| Piece::Broken(Broken::Stray(byte));
    assert_eq!(
        pieces(b"{\"a\":\"\xff {}"),
        [stray(0xff), value("{}")],
        "in a string"
    );
    assert_eq!(
        pieces(b"{{{{\x00 {}"),
        [stray(0), value("{}")],
        "in objects"
    );
    assert_eq!(pieces(b"\"abc\n{}"), [stray(b'\n'), value("{}")]);
    assert_eq!(pieces(b"\xef\xbb\xbf{}"), [stray(0xef), value("{}")]);
    assert_eq!(pieces(b"\xfe\xff junk\n5 "), [stray(0xfe), value("5")]);
}

#[test]
fn bracket_of_the_other_kind_starts_anew() {
    let stray = |byte| Piece::Broken(Broken::Stray(byte));
    assert_eq!(pieces(b"[}{}"), [stray(b'}'), value("{}")]);
    assert_eq!(pieces(b"{\"a\":[}{}"), [stray(b'}'), value("{}")]);
}

#[test]
fn whole_value_that_is_no_json_is_cut_like_one_that_is() {
    for wrong in [r#"{"a" 5}"#, "{'a':1}", r#"{"a":}"#, "[1 2 {}]", "}"] {
        let input = format!("{wrong}{{}}");
        assert_eq!(pieces(input.as_bytes()), [value(wrong), value("{}")]);
    }
}

#[test]
fn nothing_is_kept_of_what_was_given_up() {
    let (mut stream, mut strays) = (JsonStream::new(), 0);
    for chunk in [&b"[\"".repeat(40_000)[..], &b"{\"a\":\"\xff".repeat(20_000)] {
        let mut rest = chunk;
        while let Some(piece) = stream.push(&mut rest) {
            assert!(matches!(piece, Piece::Broken(_)), "{piece:?}");
            strays += 1;
        }
        assert!(stream.value.len() + stream.closers.len() <= 2 * MAX_REQUEST_BYTES);
    }
    assert!(strays > 0);
}
