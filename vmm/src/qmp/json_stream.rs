//! Cuts what a QMP client sends into JSON values, however the bytes arrive.
//!
//! Spec: QMP (QEMU docs/interop/qmp-spec.rst) §2.1: the stream is a sequence of JSON values with or without white space
//! between them. Only the extent of a value is found here, by strings and brackets; `json_text` judges its text. So a
//! value that is wrong but whole costs that value and nothing else.
//! In step again after an error, as QEMU's lexer is: a byte that can be in no JSON text drops what came before it, and
//! the next bracket, comma, colon or line starts anew. What is too long or too deep is dropped up to its last bracket or
//! the end of the line.
//! Limits: [`MAX_REQUEST_BYTES`], [`MAX_NESTING`].

#[cfg(test)]
mod tests;

/// Largest request, in bytes (64 KiB). The largest legitimate one, a `device_add`, has a few hundred.
/// Why bounded: a client could send an endless value and we keep all of it.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Deepest nesting of objects and arrays. The deepest legitimate request has three levels.
/// Why bounded: parsing, keeping and sending back an id takes stack for each level (serde_json's own limit is 128).
pub(super) const MAX_NESTING: usize = 100;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The text of one whole value, or of a word that stands where a value should.
    Value(Vec<u8>),
    /// Something that cannot become a value. What belongs to it is dropped as it comes.
    Broken(Broken),
}

/// Why bytes cannot become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Longer than [`MAX_REQUEST_BYTES`].
    TooLong,
    /// Deeper than [`MAX_NESTING`].
    TooDeep,
    /// This byte may not be where it is.
    Stray(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between values.
    Between,
    /// In an object or array, outside of its strings.
    Nested,
    /// In a string.
    InString,
    /// After a backslash in a string.
    Escaped,
    /// In a bare token: a number, a word or junk.
    Bare,
    /// After a stray byte.
    Recovering,
    /// In a value that was refused before its end.
    Dropping { depth: usize, text: Text },
}

/// Where in a dropped value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Plain,
    InString,
    Escaped,
}

/// The cutter: push bytes, take pieces.
#[derive(Debug)]
pub(super) struct JsonStream {
    state: State,
    value: Vec<u8>,
    /// The brackets that close what is open, the outermost first.
    closers: Vec<u8>,
}

impl JsonStream {
    /// At the start of a connection.
    pub(super) fn new() -> JsonStream {
        JsonStream {
            state: State::Between,
            value: Vec::new(),
            closers: Vec::new(),
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

    fn take(&mut self, byte: u8) -> Option<Piece> {
        match self.state {
            State::Recovering if byte == b'\n' => self.state = State::Between,
            State::Recovering if is_structural(byte) => {
                self.state = State::Between;
                return self.keep(byte);
            }
            State::Recovering => {}
            State::Dropping { depth, text } => self.state = drop_byte(depth, text, byte),
            State::Between if byte.is_ascii_whitespace() => {}
            State::Between | State::Nested | State::InString | State::Escaped | State::Bare => {
                return self.keep(byte);
            }
        }
        None
    }

    fn keep(&mut self, byte: u8) -> Option<Piece> {
        if self.may_not_be_here(byte) {
            return Some(self.stray(byte));
        }
        if self.value.len() >= MAX_REQUEST_BYTES {
            return Some(self.too_long(byte));
        }
        self.value.push(byte);
        match (self.state, byte) {
            (State::Between | State::Nested, b'{') => return self.open(b'}'),
            (State::Between | State::Nested, b'[') => return self.open(b']'),
            (State::Between, b'}' | b']' | b',' | b':') => return Some(self.finish()),
            (State::Nested, b'}' | b']') => return self.close(byte),
            (State::Between | State::Nested, b'"') => self.state = State::InString,
            (State::InString, b'"') if self.closers.is_empty() => return Some(self.finish()),
            (State::InString, b'"') => self.state = State::Nested,
            (State::InString, b'\\') => self.state = State::Escaped,
            (State::Escaped, _) => self.state = State::InString,
            (State::Between, _) => self.state = State::Bare,
            (_, _) => {}
        }
        None
    }

    /// Control characters and bytes that no UTF-8 text has. What else is wrong with a text leaves its extent clear.
    fn may_not_be_here(&self, byte: u8) -> bool {
        let in_string = matches!(self.state, State::InString | State::Escaped);
        match byte {
            0xfe | 0xff => true,
            0x00..=0x1f => in_string || !byte.is_ascii_whitespace(),
            _ => !in_string && !byte.is_ascii(),
        }
    }

    fn open(&mut self, closer: u8) -> Option<Piece> {
        if self.closers.len() >= MAX_NESTING {
            let depth = self.closers.len() + 1;
            let text = Text::Plain;
            return Some(self.refuse(Broken::TooDeep, State::Dropping { depth, text }));
        }
        self.closers.push(closer);
        self.state = State::Nested;
        None
    }

    fn close(&mut self, byte: u8) -> Option<Piece> {
        if self.closers.pop() != Some(byte) {
            return Some(self.stray(byte));
        }
        self.closers.is_empty().then(|| self.finish())
    }

    fn stray(&mut self, byte: u8) -> Piece {
        self.refuse(Broken::Stray(byte), State::Recovering)
    }

    fn too_long(&mut self, byte: u8) -> Piece {
        let dropping = |text| drop_byte(self.closers.len(), text, byte);
        let state = match self.state {
            State::Nested => dropping(Text::Plain),
            State::InString => dropping(Text::InString),
            State::Escaped => dropping(Text::Escaped),
            State::Between | State::Bare | State::Recovering | State::Dropping { .. } => {
                State::Recovering
            }
        };
        self.refuse(Broken::TooLong, state)
    }

    fn refuse(&mut self, why: Broken, state: State) -> Piece {
        self.clear();
        self.state = state;
        Piece::Broken(why)
    }

    fn finish(&mut self) -> Piece {
        let value = std::mem::take(&mut self.value);
        self.clear();
        self.state = State::Between;
        Piece::Value(value)
    }

    fn clear(&mut self) {
        self.value = Vec::new();
        self.closers.clear();
    }
}

/// Where a dropped value is after this byte.
fn drop_byte(depth: usize, text: Text, byte: u8) -> State {
    let (depth, text) = match (text, byte) {
        (_, b'\n') => return State::Between,
        // The end of a string that is no part of anything, and of what was opened first.
        (Text::InString, b'"') if depth == 0 => return State::Between,
        (Text::Plain, b'}' | b']') if depth <= 1 => return State::Between,
        (Text::InString, b'"') => (depth, Text::Plain),
        (Text::InString, b'\\') => (depth, Text::Escaped),
        (Text::Escaped, _) => (depth, Text::InString),
        (Text::Plain, b'"') => (depth, Text::InString),
        (Text::Plain, b'{' | b'[') => (depth.saturating_add(1), Text::Plain),
        (Text::Plain, b'}' | b']') => (depth - 1, Text::Plain),
        (unchanged, _) => (depth, unchanged),
    };
    State::Dropping { depth, text }
}

fn is_structural(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}

fn ends_bare(byte: u8) -> bool {
    byte.is_ascii_whitespace() || is_structural(byte) || byte == b'"'
}
