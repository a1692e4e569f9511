//! Options as clap takes them: with two dashes, and the value behind an equals sign, so that a value that begins with a dash
//! (`-append -v`) is never taken for an option. Options that stand in a file come in its place.
//!
//! Limit: `MAX_FILE_BYTES`. A file names no other file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clap::Command as Clap;

use super::{CliError, PROGRAM};
use crate::config::ConfigError;

/// The option that names a file with options.
pub(super) const CONFIG: &str = "config";
/// Longest file with options, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The program's name and all options.
pub(super) fn with_two_dashes(
    clap: &Clap,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, CliError> {
    let mut rewritten = vec![OsString::from(PROGRAM)];
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument
            .to_str()
            .ok_or_else(|| CliError::Usage(format!("{argument:?} is not UTF-8")))?;
        let Some(word) = without_dashes(text) else {
            return Err(CliError::Usage(format!(
                "\"{text}\" does not belong to an option"
            )));
        };
        let (name, value) = word
            .split_once('=')
            .map_or((word, None), |(name, value)| (name, Some(value)));
        let mut next = || value.map(OsString::from).or_else(|| arguments.next());
        if name == CONFIG {
            let path = next().ok_or_else(|| no_value(name))?;
            rewritten.extend(of_file(clap, Path::new(&path))?);
        } else {
            rewritten.push(option(clap, name, value.is_some(), next)?);
        }
    }
    Ok(rewritten)
}

fn of_file(clap: &Clap, path: &Path) -> Result<Vec<OsString>, CliError> {
    let refused = |reason: String| {
        CliError::from(ConfigError::option(
            CONFIG,
            &path.display().to_string(),
            reason,
        ))
    };
    let text = read(path).map_err(|error| refused(error.to_string()))?;
    let lines = (1..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.trim()));
    let options = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parse = |(number, line): (u32, &str)| {
        let line = without_dashes(line).unwrap_or(line);
        let (name, value) = line
            .split_once(char::is_whitespace)
            .map_or((line, None), |(name, value)| (name, Some(value.trim())));
        let made = match name {
            CONFIG => Err(CliError::Usage("a file cannot name another one".to_owned())),
            name => option(clap, name, value.is_some(), || value.map(OsString::from)),
        };
        made.map_err(|error| match error {
            CliError::Usage(reason) => refused(format!("line {number}: {reason}")),
            CliError::Config(_) => error,
        })
    };
    options.map(parse).collect()
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let taken = File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if taken as u64 > MAX_FILE_BYTES {
        let reason = format!("it is longer than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::other(reason));
    }
    Ok(text)
}

/// One option, whose value `next` gives if it takes one.
fn option(
    clap: &Clap,
    name: &str,
    has_value: bool,
    next: impl FnOnce() -> Option<OsString>,
) -> Result<OsString, CliError> {
    let option = clap
        .get_arguments()
        .find(|option| {
            option.get_long() == Some(name)
                || option
                    .get_all_aliases()
                    .is_some_and(|all| all.contains(&name))
        })
        .ok_or_else(|| CliError::Usage(format!("there is no option -{name}")))?;
    let mut whole = OsString::from(format!("--{name}"));
    if option.get_action().takes_values() {
        let value = next().ok_or_else(|| no_value(name))?;
        whole.push("=");
        whole.push(value);
    } else if has_value {
        return Err(CliError::Usage(format!("-{name} takes no value")));
    }
    Ok(whole)
}

fn no_value(name: &str) -> CliError {
    CliError::Usage(format!("-{name} needs a value"))
}

fn without_dashes(text: &str) -> Option<&str> {
    text.strip_prefix("--").or_else(|| text.strip_prefix('-'))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::{Command, parse};

    fn parse_file(text: &str, more: &[&str]) -> Result<Command, String> {
        let path = std::env::temp_dir().join(format!(
            "bulkhead-{}-{:?}.conf",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, text).unwrap();
        let mut words: Vec<OsString> = vec!["-config".into(), path.clone().into()];
        words.extend(more.iter().map(OsString::from));
        let parsed = parse(words).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        parsed
    }

    #[test]
    fn file_has_an_option_per_line_and_its_value_verbatim() {
        let text =
            "# A machine\n\nkernel /boot/k\n-append console=ttyS0 -v # kept\nno-reboot\n --m 1G\n";
        let Command::Run(config) = parse_file(text, &["-smp", "2"]).unwrap() else {
            panic!("a machine expected");
        };
        assert_eq!(config.append, "console=ttyS0 -v # kept");
        assert_eq!(config.memory.size_bytes, 1 << 30);
        assert!(config.no_reboot && config.cpus == 2);
    }

    #[test]
    fn bad_line_is_named_with_its_file() {
        for (text, reason) in [
            ("kernel k\nkernal x\n", "line 2: there is no option -kernal"),
            ("append\n", "line 1: -append needs a value"),
            ("no-reboot 1\n", "line 1: -no-reboot takes no value"),
            ("config /x\n", "line 1: a file cannot name another one"),
        ] {
            let error = parse_file(text, &[]).unwrap_err();
            assert!(
                error.starts_with("-config /") && error.contains(reason),
                "{error}"
            );
        }
        let long = format!("append {}\n", "x".repeat(70_000));
        assert!(
            parse_file(&long, &[])
                .unwrap_err()
                .contains("longer than 65536 bytes")
        );
    }
}
