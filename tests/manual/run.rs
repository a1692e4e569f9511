//! Does what a manual says, step by step, and compares.
//!
//! A step that goes wrong does not keep the others from running: all that is wrong is told at the end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::deadline::{PROCESS, eventually};

use crate::dialogue::{Dialogue, Order};
use crate::document::{Command, Exchange, Step, may_fail, steps};
use crate::host::TRIAL;
use crate::session::{Outcome, Session};
use crate::shown::is_shown;

/// Commands that only look. What they look for may need a moment.
const LOOKS: [&str; 7] = [
    "cat ",
    "curl ",
    "grep ",
    "journalctl ",
    "ls ",
    "systemctl is-active ",
    "tail ",
];
const LOOK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The QMP socket of a VM with nothing but the options that a manual shows.
const TRIAL_SOCKET: &str = "/run/trial.qmp";
const QUIT: &str = r#"{"execute":"quit"}"#;

/// A manual that is being followed.
#[derive(Debug)]
pub(crate) struct Reader {
    session: Session,
    order: Order,
    /// With the VM that was started last.
    dialogue: Option<Dialogue>,
    printed: String,
}

impl Reader {
    pub(crate) fn new(order: Order) -> Result<Reader> {
        Ok(Reader {
            session: Session::start()?,
            order,
            dialogue: None,
            printed: String::new(),
        })
    }

    /// Runs a whole manual. Gives what all its commands printed.
    pub(crate) fn follow(mut self, manual: &str) -> Result<String> {
        let steps = steps(manual)?;
        let (mut wrong, mut done) = (Vec::new(), 0);
        for (index, step) in steps.iter().enumerate() {
            let begin = Instant::now();
            let result = self.step(step, may_fail(&steps, index));
            let seconds = begin.elapsed().as_secs_f64();
            println!("{seconds:6.1} s  {}", text_of(step));
            match result {
                Ok(()) => done += 1,
                Err(error) => wrong.push(format!("line {}: {error:#}", line_of(step))),
            }
            if self.session.is_stuck() {
                break;
            }
        }
        ensure!(
            wrong.is_empty() && done == steps.len() && done > 0,
            "{} of {} steps of the manual are not as it says:\n{}",
            wrong.len(),
            steps.len(),
            wrong.join("\n")
        );
        Ok(self.printed)
    }

    fn step(&mut self, step: &Step, may_fail: bool) -> Result<()> {
        match step {
            Step::Command(command) => self.command(command, may_fail),
            Step::Exchange(exchange) => self.exchange(exchange),
            Step::Options { text, .. } => self.options(text),
        }
    }

    fn command(&mut self, command: &Command, may_fail: bool) -> Result<()> {
        let right = |outcome: &Outcome| {
            (may_fail || outcome.status == 0) && is_shown(&command.shown, &outcome.printed)
        };
        let mut outcome = self.session.run(&command.text)?;
        let looks = LOOKS.iter().any(|start| command.text.starts_with(start));
        let end = Instant::now() + LOOK;
        while looks && !right(&outcome) && Instant::now() < end {
            std::thread::sleep(LOOK_AGAIN);
            outcome = self.session.run(&command.text)?;
        }
        println!("{}", outcome.printed);
        self.printed += &outcome.printed;
        ensure!(
            right(&outcome),
            "{} ended with {} and printed:\n{}and should have printed:\n{}",
            command.text,
            outcome.status,
            outcome.printed,
            command.shown.join("\n")
        );
        if command.text.ends_with('&') {
            self.started(&command.text)?;
        }
        Ok(())
    }

    /// Waits until what was put into the background is ready: its sockets are there.
    fn started(&mut self, command: &str) -> Result<()> {
        for path in sockets(command) {
            let exists = || Path::new(&path).exists().then_some(());
            eventually(&path, PROCESS, exists).with_context(|| command.to_owned())?;
            if path.ends_with("qmp") {
                self.dialogue = Some(Dialogue::with(&path, self.order)?);
            }
        }
        Ok(())
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<()> {
        let dialogue = self.dialogue.as_mut();
        let dialogue = dialogue.context("no VM with QMP was started")?;
        dialogue.exchange(exchange)
    }

    /// Starts a VM with these options, and ends it when it has its devices.
    fn options(&mut self, options: &str) -> Result<()> {
        let started = self.session.run(&format!(
            "bulkhead-vmm -config {TRIAL} -qmp unix:{TRIAL_SOCKET},server=on,wait=off {options} &"
        ))?;
        ensure!(started.status == 0, "{}", started.printed);
        let exchange = Exchange {
            line: 0,
            sent: QUIT.to_owned(),
            shown: vec![r#"{"return":{}}"#.to_owned()],
        };
        let quit =
            Dialogue::with(TRIAL_SOCKET, Order::Any).and_then(|mut vm| vm.exchange(&exchange));
        let ended = self.session.run("wait $!")?;
        quit.with_context(|| format!("{options}: status {}", ended.status))?;
        ensure!(ended.status == 0, "{options}: status {}", ended.status);
        Ok(())
    }
}

/// The sockets that a command makes: behind `--socket`, and in `unix:PATH`.
fn sockets(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let own = words.windows(2).filter_map(|pair| match pair {
        ["--socket", path] => Some(*path),
        _ => None,
    });
    let named = words.iter().filter_map(|word| {
        let (path, _) = word
            .strip_prefix("unix:")?
            .split_once(',')
            .unwrap_or((&word[5..], ""));
        Some(path)
    });
    own.chain(named).map(str::to_owned).collect()
}

fn text_of(step: &Step) -> &str {
    match step {
        Step::Command(Command { text, .. }) | Step::Options { text, .. } => text,
        Step::Exchange(exchange) => &exchange.sent,
    }
}

fn line_of(step: &Step) -> usize {
    match step {
        Step::Command(Command { line, .. })
        | Step::Exchange(Exchange { line, .. })
        | Step::Options { line, .. } => *line,
    }
}

#[cfg(test)]
mod tests {
    use super::sockets;

    #[test]
    fn sockets_of_a_command_are_those_that_it_makes() {
        let command = "a --socket /run/a.sock -qmp unix:/run/b.qmp,server=on --metrics unix:/run/c -device x,socket=/run/d &";
        assert_eq!(sockets(command), ["/run/a.sock", "/run/b.qmp", "/run/c"]);
    }
}
