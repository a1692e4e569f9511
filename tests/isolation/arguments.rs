//! The arguments of a test executable. Like Rust's own, and unlike libtest-mimic, this one takes several names.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Options that have a value.
const WITH_VALUE: [&str; 5] = [
    "--skip",
    "--test-threads",
    "--format",
    "--color",
    "--logfile",
];

/// Runs the tests that the command line chooses.
pub(crate) fn run(mut tests: Vec<Trial>) -> ExitCode {
    let mut options = Vec::new();
    let mut names = Vec::new();
    let mut words = std::env::args().peekable();
    options.extend(words.next());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            options.push(word);
            options.extend(words.next());
        } else if word.starts_with('-') {
            options.push(word);
        } else {
            names.push(word);
        }
    }
    let exact = options.iter().any(|option| option == "--exact");
    if !names.is_empty() {
        tests.retain(|test| {
            names.iter().any(|name| {
                if exact {
                    test.name() == name
                } else {
                    test.name().contains(name)
                }
            })
        });
    }
    libtest_mimic::run(&Arguments::from_iter(options), tests).exit_code()
}
