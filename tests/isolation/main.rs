//! The attacker in each process: what it tries, and which layer stops it. docs/isolation.md shows the matrix.
//!
//! Each attempt runs in a process of its own. With no layer on it succeeds, where the kernel has what it needs; behind each
//! layer that its row names, alone, it is stopped; and behind the role's whole sandbox. Needs root.
//! Does not attack the shipped processes: what those are held to is compared in `passthrough::isolation`.

mod attacker;
mod attempts;
mod document;
mod layers;
mod raw_call;
mod role;
mod victim;

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use sandbox::roles::vmm::Thread;

use attacker::{Behind, Outcome, run};
use attempts::Attempt;
use layers::Layer;
use role::Role;
use victim::{Target, Victim};

/// Not a test of its own: enters what the environment names and tries what it names.
#[test]
#[ignore = "run by the other tests"]
#[expect(clippy::exit, reason = "its status is its answer")]
fn attacker_process() {
    let status = match attacker::attempt() {
        Ok(status) => status,
        Err(error) => {
            // Past what a test's output is kept back by.
            let _ = writeln!(std::io::stderr(), "attacker: {error:#}");
            1
        }
    };
    std::process::exit(status);
}

/// Past that too.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// What of a row is not as it says.
fn failures(attempt: &Attempt, target: &Target) -> Result<Vec<String>> {
    let mut failures = Vec::new();
    let free = run(attempt, Role::ALL[0], Behind::Nothing, target)?;
    if free != Outcome::Done {
        match attempt.needs {
            Some(needs) => say(&format!(
                "    {}: not possible on this machine ({needs})",
                attempt.name
            ))?,
            None => failures.push(format!("{}: {free:?} without any layer", attempt.name)),
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
                failures.push(format!(
                    "{}: {outcome:?} as {role}, behind {layer} alone",
                    attempt.name
                ));
            }
        }
        if !layers.is_empty() {
            let outcome = run(attempt, role, Behind::All, target)?;
            if !outcome.stopped() {
                failures.push(format!(
                    "{}: {outcome:?} as {role}, behind all layers",
                    attempt.name
                ));
            }
        }
    }
    Ok(failures)
}

#[test]
#[ignore = "attacks this machine as root: scripts/test"]
fn each_attempt_is_stopped_by_each_layer_of_its_row_alone() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "run it as root");
    let victim = Victim::start()?;
    let mut failed = Vec::new();
    for (subject, rows) in attempts::all() {
        say(&format!("  {subject}"))?;
        for row in rows {
            let found = failures(row, victim.target()).with_context(|| row.name)?;
            let verdict = if found.is_empty() {
                "stopped"
            } else {
                "NOT AS SAID"
            };
            say(&format!("    {verdict}: {}", row.name))?;
            failed.extend(found);
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

#[test]
#[ignore = "attacks this machine as root: scripts/test"]
fn filter_of_every_thread_of_the_vmm_stops_what_the_matrix_says() -> Result<()> {
    let victim = Victim::start()?;
    let mut failed = Vec::new();
    for role in Thread::ALL.map(Role::Vmm) {
        if Role::ALL.contains(&role) {
            continue;
        }
        for row in attempts::all().into_iter().flat_map(|(_, rows)| rows) {
            if !row.stopped_by(role).contains(&Layer::Filter) {
                continue;
            }
            let outcome = run(row, role, Behind::One(Layer::Filter), victim.target())?;
            if !outcome.stopped() {
                failed.push(format!("{}: {outcome:?} as {role}", row.name));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// `WRITE_ISOLATION=1` writes it anew.
#[test]
fn document_shows_the_matrix() -> Result<()> {
    const BEGIN: &str = "<!-- matrix: begin -->\n";
    const END: &str = "<!-- matrix: end -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/isolation.md");
    let text = std::fs::read_to_string(path)?;
    let (before, rest) = text.split_once(BEGIN).context("where the matrix begins")?;
    let (shown, after) = rest.split_once(END).context("where it ends")?;
    if std::env::var_os("WRITE_ISOLATION").is_some() {
        std::fs::write(
            path,
            format!("{before}{BEGIN}{}{END}{after}", document::matrix()),
        )?;
        return Ok(());
    }
    ensure!(
        shown == document::matrix(),
        "WRITE_ISOLATION=1 cargo test -p tests --test isolation writes it anew"
    );
    Ok(())
}
