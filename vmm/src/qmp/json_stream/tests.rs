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
fn value_over_the_limit_is_reported_once_and_the_next_line_is_read() {
    let mut input = b"[".to_vec();
    input.extend(vec![b' '; MAX_REQUEST_BYTES + 10]);
    input.extend(b"\n{}");
    assert_eq!(pieces(&input), [Piece::TooLong, value("{}")]);
}

#[test]
fn skipping_a_line_drops_what_is_left_of_it() {
    let mut stream = JsonStream::new();
    let mut rest: &[u8] = b"junk {more}\n{}";
    assert_eq!(stream.push(&mut rest), Some(value("junk")));
    stream.skip_line();
    assert_eq!(stream.push(&mut rest), Some(value("{}")));
}
