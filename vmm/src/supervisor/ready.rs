//! Reads a device server's ready line: `{"ready":true}` or `{"error":"text"}`.

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
}

/// What the server said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadyState {
    /// Not a whole line yet.
    Waiting,
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
            },
            writer,
        ))
    }

    /// Takes what is there. Call it when the pipe is readable.
    pub(super) fn read(&mut self) -> ReadyState {
        let mut buffer = [0; MAX_READY_BYTES];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) if self.line.is_empty() => return ReadyState::Silent,
                Ok(0) => return parse(&self.line),
                Ok(count) => self
                    .line
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => return ReadyState::Waiting,
                Err(Errno::INTR) => continue,
                Err(errno) => return ReadyState::Failed(io::Error::from(errno).to_string()),
            }
            if self.line.contains(&b'\n') || self.line.len() > MAX_READY_BYTES {
                return parse(&self.line);
            }
        }
    }
}

fn parse(line: &[u8]) -> ReadyState {
    let text = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(text) {
        Ok(Line::Ready(true)) => ReadyState::Ready,
        Ok(Line::Error(text)) => ReadyState::Failed(
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        ),
        Ok(Line::Ready(false)) | Err(_) => {
            ReadyState::Failed("its ready line makes no sense".to_owned())
        }
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
    fn half_a_line_is_waited_for_and_no_line_is_silence() {
        assert_eq!(read_of("{\"rea", false), ReadyState::Waiting);
        assert_eq!(read_of("", false), ReadyState::Waiting);
        assert_eq!(read_of("", true), ReadyState::Silent);
    }

    #[test]
    fn nonsense_is_a_failure() {
        for text in [
            "{\"ready\":false}\n",
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
