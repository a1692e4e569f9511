//! Reads a device server's ready line, `{"ready":true}` or `{"error":"text"}`, and `{"serving":true}`, which may come before it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use serde::Deserialize;

use super::deadline::MAX_READY_BYTES;

/// The reading end of a ready pipe.
#[derive(Debug)]
pub(super) struct ReadyPipe {
    fd: OwnedFd,
    line: Vec<u8>,
    /// A line was read that another has to follow.
    serving: bool,
}

/// What the server said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadyState {
    /// Not a whole line yet.
    Waiting,
    /// Its client is served; the device is still being opened, and another line follows.
    Serving,
    /// It serves.
    Ready,
    /// It does not, and why.
    Failed(String),
    /// It closed the pipe without a line: it is about to end, or has ended.
    Silent,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Serving(bool),
    Ready(bool),
    Error(String),
}

impl ReadyPipe {
    /// A pipe: what the supervisor reads, and what the server writes.
    pub(super) fn new() -> io::Result<(ReadyPipe, OwnedFd)> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let flags = rustix::fs::fcntl_getfl(&reader)?;
        rustix::fs::fcntl_setfl(&reader, flags.union(rustix::fs::OFlags::NONBLOCK))?;
        Ok((
            ReadyPipe {
                fd: reader,
                line: Vec::new(),
                serving: false,
            },
            writer,
        ))
    }

    /// Takes the next line, if it is there. Call it when the pipe is readable, and again after `Serving`.
    pub(super) fn read(&mut self) -> ReadyState {
        let mut buffer = [0; MAX_READY_BYTES];
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let rest = self.line.split_off(end.saturating_add(1));
                let line = std::mem::replace(&mut self.line, rest);
                return self.state(&line);
            }
            if self.line.len() > MAX_READY_BYTES {
                return self.last();
            }
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) if self.line.is_empty() => return ReadyState::Silent,
                Ok(0) => return self.last(),
                Ok(count) => self
                    .line
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => return ReadyState::Waiting,
                Err(Errno::INTR) => continue,
                Err(errno) => return ReadyState::Failed(io::Error::from(errno).to_string()),
            }
        }
    }

    /// A line without an end, which no other can follow.
    fn last(&self) -> ReadyState {
        let state = parse(&self.line);
        if state == ReadyState::Serving {
            return makes_no_sense();
        }
        state
    }

    /// Only the first line may be one that another follows: what a server says has an end.
    fn state(&mut self, line: &[u8]) -> ReadyState {
        let state = parse(line);
        let again = std::mem::replace(&mut self.serving, state == ReadyState::Serving);
        if again && state == ReadyState::Serving {
            return makes_no_sense();
        }
        state
    }
}

fn makes_no_sense() -> ReadyState {
    ReadyState::Failed("its ready line makes no sense".to_owned())
}

fn parse(line: &[u8]) -> ReadyState {
    match serde_json::from_slice(line) {
        Ok(Line::Ready(true)) => ReadyState::Ready,
        Ok(Line::Serving(true)) => ReadyState::Serving,
        Ok(Line::Error(text)) => ReadyState::Failed(
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        ),
        Ok(Line::Ready(false) | Line::Serving(false)) | Err(_) => makes_no_sense(),
    }
}

impl AsFd for ReadyPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(text: &str, closed: bool) -> ReadyState {
        let (mut pipe, writer) = ReadyPipe::new().unwrap();
        rustix::io::write(&writer, text.as_bytes()).unwrap();
        let _open = (!closed).then_some(writer);
        pipe.read()
    }

    #[test]
    fn lines_are_understood() {
        assert_eq!(read_of("{\"ready\":true}\n", false), ReadyState::Ready);
        assert_eq!(
            read_of("{\"error\":\"no such\\ngroup\"}\n", false),
            ReadyState::Failed("no such group".to_owned())
        );
    }

    #[test]
    fn lines_of_a_server_that_serves_early_come_one_after_another() {
        let (mut pipe, writer) = ReadyPipe::new().unwrap();
        let first = b"{\"serving\":true}\n{\"rea";
        rustix::io::write(&writer, first).unwrap();
        assert_eq!(pipe.read(), ReadyState::Serving);
        assert_eq!(pipe.read(), ReadyState::Waiting);
        rustix::io::write(&writer, b"dy\":true}\n").unwrap();
        assert_eq!(pipe.read(), ReadyState::Ready);
    }

    #[test]
    fn server_that_says_twice_that_it_serves_early_has_failed() {
        let (mut pipe, writer) = ReadyPipe::new().unwrap();
        let line = b"{\"serving\":true}\n";
        rustix::io::write(&writer, &[&line[..], line].concat()).unwrap();
        assert_eq!(pipe.read(), ReadyState::Serving);
        assert_eq!(pipe.read(), makes_no_sense());
    }

    #[test]
    fn half_a_line_is_waited_for_and_no_line_is_silence() {
        assert_eq!(read_of("{\"rea", false), ReadyState::Waiting);
        assert_eq!(read_of("", false), ReadyState::Waiting);
        assert_eq!(read_of("", true), ReadyState::Silent);
    }

    #[test]
    fn nonsense_is_a_failure() {
        for text in [
            "{\"ready\":false}\n",
            "{\"serving\":false}\n",
            "{\"serving\":true}",
            &format!("{{\"serving\":true}}{}", " ".repeat(5000)),
            "hello\n",
            "{\"ready\":true,\"error\":\"x\"}\n",
            &"x".repeat(5000),
        ] {
            assert!(
                matches!(read_of(text, true), ReadyState::Failed(_)),
                "{text}"
            );
        }
    }
}
