//! What in a manual is a command, and what it says that a command prints.
//!
//! A manual has code only between fences, and each fence says what is in it:
//!
//! - `console`: a root shell on the host. A line that begins with `# ` is a command, which goes on behind a backslash and in lines that
//!   begin with `> `; other lines are what it prints.
//! - `json`: QMP with the VM that was started last. `-> ` is sent, `<- ` comes.
//! - `options`: options of bulkhead-vmm, one `-device` a line, for a VM with nothing else; `[...]` may be left out.
//!
//! What is printed may have `...` in it (shown.rs). Nothing else is code, so nothing that looks like a command is left out.

use anyhow::{Context, Result, bail, ensure};

/// What is done in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Command(Command),
    Exchange(Exchange),
    Options { line: usize, text: String },
}

/// A command of the host's shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) shown: Vec<String>,
}

/// A QMP request, or none, and what comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) line: usize,
    pub(crate) sent: String,
    pub(crate) shown: Vec<String>,
}

/// Shows the status of the command before, which then may have failed.
const ASK_STATUS: &str = "echo $?";

/// The steps of a manual in their order. An error says in which line something is no known kind of code.
pub(crate) fn steps(manual: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = (1..).zip(manual.lines());
    while let Some((number, line)) = lines.next() {
        ensure!(
            !line.starts_with("    ") && !line.starts_with('\t'),
            "line {number}: code without a fence that says what it is: {line}"
        );
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let block: Vec<(usize, &str)> = lines
            .by_ref()
            .take_while(|(_, line)| *line != "```")
            .collect();
        match kind {
            "console" => steps.extend(commands(&block)?),
            "json" => steps.extend(exchanges(&block)?),
            "options" => steps.extend(block.iter().flat_map(options)),
            _ => bail!("line {number}: code of an unknown kind: {line}"),
        }
    }
    Ok(steps)
}

/// Which commands may end with another status than 0: those whose status is shown.
pub(crate) fn may_fail(steps: &[Step], index: usize) -> bool {
    matches!(steps.get(index + 1), Some(Step::Command(next)) if next.text == ASK_STATUS)
}

fn commands(block: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut commands: Vec<Command> = Vec::new();
    for &(line, text) in block {
        if let Some(text) = text.strip_prefix("# ") {
            let (text, shown) = (text.to_owned(), Vec::new());
            commands.push(Command { line, text, shown });
            continue;
        }
        let last = commands.last_mut();
        let last = last.with_context(|| format!("line {line}: output of no command: {text}"))?;
        let goes_on = last.text.ends_with('\\').then_some(text);
        match text.strip_prefix("> ").or(goes_on) {
            Some(more) if last.shown.is_empty() => last.text += &format!("\n{more}"),
            _ => last.shown.push(text.to_owned()),
        }
    }
    Ok(commands.into_iter().map(Step::Command).collect())
}

fn exchanges(block: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for &(line, text) in block {
        if let Some(sent) = text.strip_prefix("-> ") {
            let (sent, shown) = (sent.to_owned(), Vec::new());
            exchanges.push(Exchange { line, sent, shown });
            continue;
        }
        let came = text.strip_prefix("<- ");
        let came = came.with_context(|| format!("line {line}: no QMP: {text}"))?;
        match exchanges.last_mut() {
            Some(last) => last.shown.push(came.to_owned()),
            None => exchanges.push(Exchange {
                line,
                sent: String::new(),
                shown: vec![came.to_owned()],
            }),
        }
    }
    Ok(exchanges.into_iter().map(Step::Exchange).collect())
}

/// A line with and without what is in brackets.
fn options(&(line, text): &(usize, &str)) -> Vec<Step> {
    let parts = text.split_once('[').and_then(|(start, rest)| {
        let (optional, end) = rest.split_once(']')?;
        Some([format!("{start}{end}"), format!("{start}{optional}{end}")])
    });
    let texts = parts.map_or_else(|| vec![text.to_owned()], Vec::from);
    let step = |text| Step::Options { line, text };
    texts.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual as cargo test sees it: no lab is needed to see that all of its code is of a known kind.
    const MANUAL: &str = include_str!("../../docs/vfio.md");

    #[test]
    fn manual_has_no_code_that_is_not_run() {
        let steps = steps(MANUAL).unwrap();
        let count = |start: &str| {
            MANUAL
                .lines()
                .filter(|line| line.starts_with(start))
                .count()
        };
        let of = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        // Headings of the first level begin as commands do: there is one, the title.
        assert_eq!(of(|step| matches!(step, Step::Command(_))), count("# ") - 1);
        let asks = |step: &Step| matches!(step, Step::Exchange(one) if !one.sent.is_empty());
        assert_eq!(of(asks), count("-> "));
        assert!(of(|step| matches!(step, Step::Options { .. })) >= count("-device "));
    }

    #[test]
    fn command_goes_on_behind_a_backslash_and_at_a_second_prompt() {
        let text = "```console\n# cat \\\n  a <<END\n> # b\n> END\n# b\n0\n1\n```\n";
        let command = |line, text: &str, shown: &[&str]| {
            let (text, shown) = (
                text.to_owned(),
                shown.iter().map(|s| (*s).to_owned()).collect(),
            );
            Step::Command(Command { line, text, shown })
        };
        let expected = [
            command(2, "cat \\\n  a <<END\n# b\nEND", &[]),
            command(6, "b", &["0", "1"]),
        ];
        assert_eq!(steps(text).unwrap(), expected);
    }

    #[test]
    fn options_are_taken_with_and_without_what_is_in_brackets() {
        let text = |step| {
            let Step::Options { text, .. } = step else {
                panic!("{step:?}");
            };
            text
        };
        let steps = steps("```options\n-device a[,b=on]\n```\n").unwrap();
        let texts: Vec<String> = steps.into_iter().map(text).collect();
        assert_eq!(texts, ["-device a", "-device a,b=on"]);
    }

    #[test]
    fn command_may_fail_where_its_status_is_asked_for() {
        let steps = steps("```console\n# a\n# echo $?\n4\n```\n").unwrap();
        assert!(may_fail(&steps, 0) && !may_fail(&steps, 1));
    }

    #[test]
    fn code_of_no_known_kind_is_refused() {
        for text in [
            "    # reboot\n",
            "```\n# reboot\n```\n",
            "```shell\n# reboot\n```\n",
            "```console\nreboot\n```\n",
            "```json\n{}\n```\n",
        ] {
            assert!(steps(text).is_err(), "{text}");
        }
    }
}
