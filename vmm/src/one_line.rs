//! An error and all its causes as one line, the way they are shown to the operator.

use std::error::Error;

/// The error's text and the texts of its sources, joined with colons. Control characters become spaces.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.replace(|c: char| c.is_control(), " ")
}
