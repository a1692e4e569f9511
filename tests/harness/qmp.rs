//! A QMP client: sends text, and keeps everything that it reads in the order in which it came.
//!
//! Waiting for a message takes that message and leaves the others, and their order, as they are: what came before what is
//! seen in [`Qmp::order`].

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::deadline::{PROCESS, eventually};

/// A VM greets when its devices have the guest's memory: in the lab pinning 512 MiB beside other load took more than 17 s.
const GREETING: Duration = Duration::from_secs(60);

/// For the answer to a command: a device server may need a while to start.
pub const ANSWER: Duration = Duration::from_secs(90);
const QUANTUM: Duration = Duration::from_millis(50);

/// One client that has negotiated.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    input: BufReader<UnixStream>,
    partial: String,
    read: Vec<Message>,
}

/// What came, and whether somebody waited for it.
#[derive(Debug)]
struct Message {
    text: String,
    value: Value,
    is_taken: bool,
}

impl Qmp {
    /// Connects as soon as the socket is there, checks the greeting and negotiates.
    pub fn connect(path: &str) -> Result<Self> {
        let stream = eventually("the QMP socket", PROCESS, || UnixStream::connect(path).ok())?;
        Self::over(stream)
    }

    /// The same on a connection that is there.
    pub fn over(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(QUANTUM))?;
        let input = BufReader::new(stream.try_clone()?);
        let mut qmp = Self {
            stream,
            input,
            partial: String::new(),
            read: Vec::new(),
        };
        let greeting = qmp.wait_for("the greeting", GREETING, |_| true)?;
        ensure!(greeting.get("QMP").is_some(), "no greeting: {greeting}");
        qmp.succeed(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(qmp)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        self.stream.write_all(bytes).context("write to QMP")
    }

    /// Sends a command; gives its answer, `return` or `error` included.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.send(command)?;
        self.answer().with_context(|| format!("after {command}"))
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Value> {
        self.wait_for("an answer", ANSWER, |message| {
            message.get("event").is_none()
        })
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

    /// The same for who has something else to do meanwhile: nothing if it did not come within `limit`.
    pub fn event_within(&mut self, name: &str, limit: Duration) -> Result<Option<Value>> {
        let found = self.look_for(limit, |message| message["event"] == name)?;
        Ok(found.map(|message| message["data"].clone()))
    }

    /// Everything read so far as it came, a line each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.read.iter().map(|message| message.text.trim_end())
    }

    /// Everything read so far in the order in which it came, the greeting first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.read.iter().map(|message| &message.value)
    }

    /// The same as words: `return`, `error`, `QMP`, or the name of an event.
    pub fn order(&self) -> Vec<&str> {
        self.messages().map(word).collect()
    }

    /// The names of the events read so far.
    pub fn events(&self) -> Vec<&str> {
        self.messages()
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
        match self.look_for(limit, wanted)? {
            Some(found) => Ok(found),
            None => bail!(
                "{what}: not within {limit:?}; QMP said {:#?}",
                self.messages().collect::<Vec<_>>()
            ),
        }
    }

    fn look_for(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let end = Instant::now() + limit;
        loop {
            let found = self
                .read
                .iter_mut()
                .find(|message| !message.is_taken && wanted(&message.value));
            if let Some(message) = found {
                message.is_taken = true;
                return Ok(Some(message.value.clone()));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            self.poll()?;
        }
    }

    fn poll(&mut self) -> Result<()> {
        match self.input.read_line(&mut self.partial) {
            Ok(0) => bail!(
                "QMP closed the connection; it said {:#?}",
                self.messages().collect::<Vec<_>>()
            ),
            Ok(_) if self.partial.ends_with('\n') => {
                let line = std::mem::take(&mut self.partial);
                let value = serde_json::from_str(&line).with_context(|| line.clone())?;
                self.read.push(Message {
                    text: line,
                    value,
                    is_taken: false,
                });
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

fn word(message: &Value) -> &str {
    let known = ["return", "error", "QMP"];
    let known = known.into_iter().find(|word| message.get(word).is_some());
    message["event"].as_str().or(known).unwrap_or("nonsense")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose server says these lines.
    fn told(lines: &str) -> Qmp {
        let (client, mut server) = UnixStream::pair().unwrap();
        let all = format!("{{\"QMP\":{{}}}}\n{{\"return\":{{}}}}\n{lines}");
        server.write_all(all.as_bytes()).unwrap();
        Qmp::over(client).unwrap()
    }

    #[test]
    fn event_that_comes_before_the_answer_is_seen_before_it() {
        let mut qmp = told("{\"event\":\"DEVICE_DELETED\",\"data\":5}\n{\"return\":{}}\n");
        qmp.answer().unwrap();
        assert_eq!(qmp.wait_for_event("DEVICE_DELETED", PROCESS).unwrap(), 5);
        assert_eq!(qmp.order(), ["QMP", "return", "DEVICE_DELETED", "return"]);
    }

    #[test]
    fn each_event_is_waited_for_once_in_any_order() {
        let mut qmp =
            told("{\"event\":\"A\",\"data\":1}\n{\"event\":\"B\"}\n{\"event\":\"A\",\"data\":2}\n");
        qmp.wait_for_event("B", PROCESS).unwrap();
        assert_eq!(qmp.wait_for_event("A", PROCESS).unwrap(), 1);
        assert_eq!(qmp.wait_for_event("A", PROCESS).unwrap(), 2);
        qmp.wait_for_event("A", QUANTUM).unwrap_err();
    }
}
