//! Tells whoever started this process that it is ready, or why it is not.
//!
//! One line of JSON on an inherited descriptor: `{"ready":true}` or `{"error":"text"}`. Then the descriptor is closed. Where a client is
//! served before its device is open, which only whoever orders that sees, `{"serving":true}` comes before it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

/// Where the line goes. Dropped without a word it is closed, which the other side takes for a crash.
#[derive(Debug)]
pub struct ReadyLine {
    file: File,
}

impl ReadyLine {
    /// The line goes to `fd`.
    pub fn new(fd: OwnedFd) -> ReadyLine {
        ReadyLine {
            file: File::from(fd),
        }
    }

    /// The client is served, and its device still to be opened.
    pub fn serving(&mut self) {
        self.send(&serde_json::json!({ "serving": true }));
    }

    /// Every device is open and every socket can be connected to.
    pub fn ready(mut self) {
        self.send(&serde_json::json!({ "ready": true }));
    }

    /// The process is about to end with an error.
    pub fn failed(mut self, text: &str) {
        self.send(&serde_json::json!({ "error": text }));
    }

    fn send(&mut self, value: &serde_json::Value) {
        let mut line = value.to_string();
        line.push('\n');
        // Nobody is left to tell if whoever waited is gone.
        let _ = self.file.write_all(line.as_bytes());
    }
}
