//! The attacker in each process: what it tries, and which layer stops it. docs/isolation.md shows the matrix.
//!
//! Each attempt is a test, and each try of it a process of its own: this program again, which has one thread then. With no
//! layer on it succeeds, where the kernel has what it needs; behind each layer that its row names, alone, it is stopped; and
//! behind the role's whole sandbox. Needs root.
//! Does not attack the shipped processes: what those are held to is compared in `passthrough::isolation`.

mod arguments;
mod attacker;
mod attempts;
mod control_group;
mod document;
mod layers;
mod other_end;
mod raw_call;
mod role;
mod victim;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use sandbox::roles::vmm::Thread;

use attacker::{Behind, Outcome, run};
use attempts::Attempt;
use layers::Layer;
use role::Role;
use victim::{Target, Victim};

fn main() -> ExitCode {
    if let Some(status) = attacker::main() {
        return status;
    }
    match tests() {
        Ok(tests) => arguments::run(tests),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "isolation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A test for each row, and two more.
fn tests() -> Result<Vec<Trial>> {
    let victim = Arc::new(Victim::start()?);
    let mut tests = Vec::new();
    for (subject, rows) in attempts::all() {
        for row in rows {
            let victim = Arc::clone(&victim);
            let name = format!("{subject}::{}", row.name);
            // As the names of tests are: they go through a shell.
            let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != ':', "_");
            let name = format!("attempt::{name}").to_lowercase();
            let test = move || done(stopped_as_its_row_says(row, victim.target()));
            tests.push(Trial::test(name, test).with_ignored_flag(true));
        }
    }
    let threads = move || done(filters_of_the_other_threads_stop_it(victim.target()));
    let name = "filter_of_every_thread_of_the_vmm_stops_what_the_matrix_says";
    tests.push(Trial::test(name, threads).with_ignored_flag(true));
    tests.push(Trial::test("document_shows_the_matrix", || {
        done(document::is_up_to_date())
    }));
    Ok(tests)
}

fn done(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| format!("{error:#}").into())
}

fn stopped_as_its_row_says(attempt: &Attempt, target: &Target) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "run it as root");
    let mut failures = Vec::new();
    let named = Role::ALL
        .into_iter()
        .flat_map(|role| attempt.stopped_by(role));
    if let Some(why) = named.copied().find_map(layers::why_not) {
        writeln!(std::io::stdout(), "not tried: {}: {why}", attempt.name)?;
        return Ok(());
    }
    let tries = |role: &Role| !attempt.stopped_by(*role).is_empty();
    let first = Role::ALL.into_iter().find(tries).unwrap_or(Role::ALL[0]);
    let free = run(attempt, first, Behind::Nothing, target)?;
    if free != Outcome::Done {
        match attempt.needs {
            Some(needs) => writeln!(
                std::io::stdout(),
                "not possible here without a layer, it needs {needs}: {}",
                attempt.name
            )?,
            None => failures.push(format!("{free:?} without any layer")),
        }
    }
    // A layer but these two is the same in every role.
    let mut once: BTreeMap<(bool, Layer), Outcome> = BTreeMap::new();
    for role in Role::ALL {
        let layers = attempt.stopped_by(role);
        for layer in layers.iter().copied() {
            let own = matches!(layer, Layer::Filter | Layer::Limits);
            let key = (role == Role::Supervisor, layer);
            let known = once.get(&key).filter(|_| !own).copied();
            let outcome =
                known.map_or_else(|| run(attempt, role, Behind::One(layer), target), Ok)?;
            once.insert(key, outcome);
            // What this kernel has not is not there behind a layer either.
            let absent = [free, outcome] == [Outcome::Unknown; 2];
            if !outcome.stopped() && !absent {
                failures.push(format!("{outcome:?} as {role}, behind {layer} alone"));
            }
        }
        if !layers.is_empty() {
            let outcome = run(attempt, role, Behind::All, target)?;
            if !outcome.stopped() {
                failures.push(format!("{outcome:?} as {role}, behind all layers"));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn filters_of_the_other_threads_stop_it(target: &Target) -> Result<()> {
    let mut failures = Vec::new();
    for role in Thread::ALL.map(Role::Vmm) {
        if Role::ALL.contains(&role) {
            continue;
        }
        for row in attempts::all().into_iter().flat_map(|(_, rows)| rows) {
            if !row.stopped_by(role).contains(&Layer::Filter) {
                continue;
            }
            let outcome =
                run(row, role, Behind::One(Layer::Filter), target).with_context(|| row.name)?;
            if !outcome.stopped() {
                failures.push(format!("{}: {outcome:?} as {role}", row.name));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
