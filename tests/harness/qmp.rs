//! A QMP client: sends text, and keeps everything that it reads in the order in which it came.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::deadline::{PROCESS, eventually};

/// For the answer to a command: a device server may need a while to start.
pub const ANSWER: Duration = Duration::from_secs(90);
const QUANTUM: Duration = Duration::from_millis(50);

/// One client that has negotiated.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    partial: String,
    read: Vec<Value>,
    /// How much of `read` was waited for.
    seen: usize,
}

impl Qmp {
    /// Connects as soon as the socket is there, checks the greeting and negotiates.
    pub fn connect(path: &str) -> Result<Self> {
        let stream = eventually("the QMP socket", PROCESS, || UnixStream::connect(path).ok())?;
        stream.set_read_timeout(Some(QUANTUM))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut qmp = Self {
            stream,
            lines,
            partial: String::new(),
            read: Vec::new(),
            seen: 0,
        };
        let greeting = qmp.next(PROCESS)?;
        ensure!(greeting.get("QMP").is_some(), "no greeting: {greeting}");
        qmp.succeed(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(qmp)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.stream
            .write_all(text.as_bytes())
            .context("write to QMP")
    }

    /// Sends a command; gives its answer, `return` or `error` included. Events that come before are kept.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.send(command)?;
        self.wait_for("an answer", ANSWER, |message| {
            message.get("event").is_none()
        })
        .with_context(|| format!("after {command}"))
    }

    /// Sends a command that must succeed; gives what it returns.
    pub fn succeed(&mut self, command: &str) -> Result<Value> {
        let answer = self.execute(command)?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command} gave {answer}"),
        }
    }

    /// Sends a command that must fail; gives the error's class and description.
    pub fn refused(&mut self, command: &str) -> Result<(String, String)> {
        let answer = self.execute(command)?;
        let text = |key: &str| {
            answer["error"][key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("{command} gave {answer}"))
        };
        Ok((text("class")?, text("desc")?))
    }

    /// Waits for an event of this name that was not waited for yet; gives its data.
    pub fn wait_for_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let found = self.wait_for(name, limit, |message| message["event"] == name)?;
        Ok(found["data"].clone())
    }

    /// Everything read so far, the greeting first.
    pub fn messages(&self) -> &[Value] {
        &self.read
    }

    /// The names of the events read so far.
    pub fn events(&self) -> Vec<&str> {
        self.read
            .iter()
            .filter_map(|message| message["event"].as_str())
            .collect()
    }

    /// Reads for this long, and keeps what comes.
    pub fn listen(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.poll()?;
        }
        Ok(())
    }

    fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let unseen = self.read.get(self.seen..).unwrap_or_default();
            if let Some(index) = unseen.iter().position(&wanted) {
                // What came before stays to be waited for.
                let message = self.read.remove(self.seen + index);
                self.read.insert(self.seen, message.clone());
                self.seen += 1;
                return Ok(message);
            }
            ensure!(
                Instant::now() < end,
                "{what}: not within {limit:?}; QMP said {:#?}",
                self.read
            );
            self.poll()?;
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Value> {
        self.wait_for("a message", limit, |_| true)
    }

    fn poll(&mut self) -> Result<()> {
        match self.lines.read_line(&mut self.partial) {
            Ok(0) => bail!("QMP closed the connection; it said {:#?}", self.read),
            Ok(_) if self.partial.ends_with('\n') => {
                let line = std::mem::take(&mut self.partial);
                self.read.push(serde_json::from_str(&line).context(line)?);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(error).context("read from QMP"),
        }
    }
}
