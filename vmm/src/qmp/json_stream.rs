//! Cuts what a QMP client sends into JSON values, however the bytes arrive.
//!
//! Spec: QMP (QEMU docs/interop/qmp-spec.rst) §2.1: the stream is a sequence of JSON values with or without white space
//! between them. Only the extent of a value is found here, by strings and brackets; serde_json judges its text.
//! After an error the rest of the line is skipped, so that a client that sends one value a line is in step again.
//! Limits: [`MAX_REQUEST_BYTES`] per value; nesting is bounded by serde_json (128).

#[cfg(test)]
mod tests;

/// Largest request, in bytes (64 KiB). The largest legitimate one, a `device_add`, has a few hundred.
/// Why bounded: a client could send an endless value and we keep all of it.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The text of one whole value.
    Value(Vec<u8>),
    /// A value was longer than [`MAX_REQUEST_BYTES`]; what follows up to the end of the line is skipped.
    TooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between values.
    Between,
    /// In an object or array.
    Nested { depth: usize },
    /// In a string at this depth.
    InString { depth: usize },
    /// After a backslash in a string at this depth.
    Escaped { depth: usize },
    /// In a bare token: a number, a word or junk.
    Bare,
    /// Skipping to the end of the line after an error.
    Skipping,
}

/// The cutter: push bytes, take pieces.
#[derive(Debug)]
pub(super) struct JsonStream {
    state: State,
    value: Vec<u8>,
}

impl JsonStream {
    /// At the start of a connection.
    pub(super) fn new() -> JsonStream {
        JsonStream {
            state: State::Between,
            value: Vec::new(),
        }
    }

    /// Takes bytes from the front of `input`, up to and including the end of the first piece, and returns that piece;
    /// None when all bytes were taken without finishing one.
    pub(super) fn push(&mut self, input: &mut &[u8]) -> Option<Piece> {
        while let Some((&byte, rest)) = input.split_first() {
            // A bare token ends before a delimiter, which then belongs to what follows.
            if self.state == State::Bare && ends_bare(byte) {
                return Some(self.finish());
            }
            *input = rest;
            if let Some(piece) = self.take(byte) {
                return Some(piece);
            }
        }
        None
    }

    /// The client's last value was refused as text: skip the rest of its line.
    pub(super) fn skip_line(&mut self) {
        self.value = Vec::new();
        self.state = State::Skipping;
    }

    fn take(&mut self, byte: u8) -> Option<Piece> {
        match self.state {
            State::Skipping if byte == b'\n' => self.state = State::Between,
            State::Skipping => {}
            State::Between if byte.is_ascii_whitespace() => {}
            State::Between
            | State::Nested { .. }
            | State::InString { .. }
            | State::Escaped { .. }
            | State::Bare => {
                return self.keep(byte);
            }
        }
        None
    }

    fn keep(&mut self, byte: u8) -> Option<Piece> {
        if self.value.len() >= MAX_REQUEST_BYTES {
            self.skip_line();
            return Some(Piece::TooLong);
        }
        self.value.push(byte);
        self.state = match (self.state, byte) {
            (State::Between, b'{' | b'[') => State::Nested { depth: 1 },
            (State::Between, b'"') => State::InString { depth: 0 },
            (State::Between, b'}' | b']' | b',' | b':') => return Some(self.finish()),
            (State::Nested { depth }, b'{' | b'[') => State::Nested {
                depth: depth.saturating_add(1),
            },
            (State::Nested { depth }, b'}' | b']') if depth > 1 => {
                State::Nested { depth: depth - 1 }
            }
            (State::Nested { .. }, b'}' | b']') => return Some(self.finish()),
            (State::Nested { depth }, b'"') => State::InString { depth },
            (State::InString { depth: 0 }, b'"') => return Some(self.finish()),
            (State::InString { depth }, b'"') => State::Nested { depth },
            (State::InString { depth }, b'\\') => State::Escaped { depth },
            (State::Escaped { depth }, _) => State::InString { depth },
            (State::Between, _) => State::Bare,
            (unchanged, _) => unchanged,
        };
        None
    }

    fn finish(&mut self) -> Piece {
        self.state = State::Between;
        Piece::Value(std::mem::take(&mut self.value))
    }
}

fn ends_bare(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"')
}
