//! What a process printed so far, collected by a thread, and waiting for a line of it.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A failed wait shows this many of the last lines.
const LINES_SHOWN: usize = 40;

/// The output of one stream of a process.
#[derive(Debug, Clone)]
pub struct Console {
    name: &'static str,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    first_byte: Option<Instant>,
    ended: bool,
}

impl Console {
    /// Starts to collect `stream`; the thread ends when the stream does.
    pub fn collect(name: &'static str, mut stream: impl Read + Send + 'static) -> Self {
        let console = Self {
            name,
            shared: Arc::default(),
        };
        let shared = Arc::clone(&console.shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                let mut state = lock(&shared);
                state.ended = count == 0;
                if count > 0 {
                    state.first_byte.get_or_insert_with(Instant::now);
                }
                state
                    .bytes
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                let ended = state.ended;
                drop(state);
                shared.changed.notify_all();
                if ended {
                    return;
                }
            }
        });
        console
    }

    /// Everything up to now, without carriage returns.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shared).bytes).replace('\r', "")
    }

    /// When the first byte came.
    pub fn first_byte(&self) -> Option<Instant> {
        lock(&self.shared).first_byte
    }

    /// Waits for a whole line that starts with `start`, and gives its rest.
    pub fn wait_for_line(&self, start: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut state = lock(&self.shared);
        loop {
            let text = String::from_utf8_lossy(&state.bytes).replace('\r', "");
            if let Some(rest) = whole_lines(&text).find_map(|line| line.strip_prefix(start)) {
                return Ok(rest.trim().to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "the stream ended".to_owned()
                } else {
                    format!("{limit:?} passed")
                };
                bail!(
                    "{}: no line {start:?} before {why}; the last lines:\n{}",
                    self.name,
                    tail(&text)
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the stream ends, and gives all of it.
    pub fn wait_for_end(&self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut state = lock(&self.shared);
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = String::from_utf8_lossy(&state.bytes).into_owned();
                bail!(
                    "{}: still open after {limit:?}; the last lines:\n{}",
                    self.name,
                    tail(&text)
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        Ok(self.text())
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
}

/// The last lines of a text, indented.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES_SHOWN);
    lines
        .iter()
        .skip(from)
        .map(|line| format!("    {line}\n"))
        .collect()
}
