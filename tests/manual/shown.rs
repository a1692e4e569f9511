//! Whether a command printed what a manual shows.
//!
//! In what is shown, a line `...` stands for any lines, and `...` in a line for any text. In JSON the string "..." is any value, and the
//! time of an event is never compared.

use serde_json::Value;

const ANYTHING: &str = "...";

/// Whether `real` is what is shown. Where nothing is shown, anything may be printed.
pub(crate) fn is_shown(shown: &[String], real: &str) -> bool {
    let real: Vec<&str> = real.lines().map(str::trim_end).collect();
    shown.is_empty() || lines_match(shown, &real)
}

fn lines_match(shown: &[String], real: &[&str]) -> bool {
    let Some((first, others)) = shown.split_first() else {
        return real.is_empty();
    };
    if first.trim() == ANYTHING {
        return (0..=real.len()).any(|skipped| lines_match(others, &real[skipped..]));
    }
    real.split_first().is_some_and(|(line, rest)| {
        line_matches(first.trim_end(), line) && lines_match(others, rest)
    })
}

fn line_matches(shown: &str, real: &str) -> bool {
    let Some((start, after)) = shown.split_once(ANYTHING) else {
        return shown == real;
    };
    let Some(rest) = real.strip_prefix(start) else {
        return false;
    };
    let mut ends = rest.char_indices().map(|(end, _)| end).chain([rest.len()]);
    ends.any(|end| line_matches(after, &rest[end..]))
}

/// The same of a QMP message.
pub(crate) fn message_is_shown(shown: &Value, real: &Value) -> bool {
    match (shown, real) {
        (Value::String(text), _) if text == ANYTHING => true,
        (Value::Object(shown), Value::Object(real)) => {
            let keys = |object: &serde_json::Map<String, Value>| {
                let mut keys: Vec<String> = object.keys().cloned().collect();
                keys.retain(|key| key != "timestamp");
                keys.sort();
                keys
            };
            keys(shown) == keys(real)
                && keys(shown)
                    .iter()
                    .all(|key| message_is_shown(&shown[key], &real[key]))
        }
        _ => shown == real,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shows(shown: &str, real: &str) -> bool {
        let shown: Vec<String> = shown.lines().map(str::to_owned).collect();
        is_shown(&shown, real)
    }

    #[test]
    fn every_line_that_is_shown_must_be_there_and_no_other() {
        assert!(shows("", "a\n"));
        assert!(shows("a\nb", "a\nb\n"));
        assert!(!shows("a\nb", "a\n"));
        assert!(!shows("a", "a\nb\n"));
        assert!(!shows("a", "b\n"));
    }

    #[test]
    fn dots_stand_for_lines_and_for_text() {
        assert!(shows("...\nb\n...", "b\n"));
        assert!(shows("...\nb\n...", "a\nb\nc\n"));
        assert!(!shows("...\nb", "a\nb\nc\n"));
        assert!(shows("pid ... of ...!", "pid 7 of a!\n"));
        assert!(!shows("pid ... of ...!", "pid 7 of a\n"));
    }

    #[test]
    fn time_of_an_event_is_not_compared_and_all_else_is() {
        let shown = json!({"event": "E", "data": {"cause": "..."}, "timestamp": {"seconds": 1}});
        let real = |cause, more| json!({"event": "E", "data": {"cause": cause, "more": more}});
        assert!(message_is_shown(
            &shown,
            &json!({"event": "E", "data": {"cause": "x"}, "timestamp": {"seconds": 2}})
        ));
        assert!(!message_is_shown(&shown, &real("x", 1)));
    }
}
