//! Two peers for tests: the raw one of the harness, and a small device behind the server's side; a client's memory.
//! Every wait ends after `PATIENCE`.
#![expect(dead_code, unused_imports, reason = "each test file uses a part of it")]
#![expect(
    unreachable_pub,
    reason = "the lint does not know modules that several test files share"
)]

pub mod device;
pub mod framing;
pub mod script;
pub mod zeroes;

pub use harness::raw_peer::bytes::{
    COMMAND, ERROR, NO_REPLY, REPLY, message, sized, version as version_body,
};
pub use harness::raw_peer::{PATIENCE, RawPeer, Received};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Integers in a row, each as wide as it says.
#[macro_export]
macro_rules! bytes {
    ($($value:expr),* $(,)?) => {{
        let mut out: Vec<u8> = Vec::new();
        $(out.extend_from_slice(&($value).to_ne_bytes());)*
        out
    }};
}

/// Hexadecimal digits in groups, as bytes.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
    let pairs = digits.chunks_exact(2).map(|pair| pair.iter().collect());
    pairs
        .map(|pair: String| u8::from_str_radix(&pair, 16).unwrap())
        .collect()
}

/// What a function appends.
pub fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A descriptor to be sent, and a way to see that every copy of it has been closed.
pub struct Probe {
    reader: OwnedFd,
    pub writer: Option<OwnedFd>,
}

impl Probe {
    pub fn new() -> Self {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        Self {
            reader,
            writer: Some(writer),
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.writer.as_ref().unwrap().as_fd()
    }

    /// All copies are closed, or will be soon.
    pub fn expect_closed(mut self) {
        self.writer = None;
        let mut fds = [PollFd::new(&self.reader, PollFlags::IN)];
        let wait = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(
            poll(&mut fds, Some(&wait)).unwrap(),
            1,
            "a copy is still open"
        );
        assert!(fds[0].revents().contains(PollFlags::HUP));
    }
}
