//! How systemd rates the units.

use anyhow::{Context, Result, ensure};

use crate::installed::{BLUE, Host, run};

/// The highest exposure, on systemd's scale from 0 to 10. The supervisor makes users, namespaces and device servers; docs/services.md says
/// what each point is for.
const CONFINED: f64 = 1.5;
const SUPERVISOR: f64 = 6.6;

fn exposure(unit: &str) -> Result<f64> {
    let text = run("systemd-analyze", &["security", "--no-pager", unit])?;
    let line = text
        .lines()
        .find(|line| line.contains("Overall exposure level"));
    let line = line.with_context(|| text.clone())?;
    let number = line
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok(number.with_context(|| line.to_owned())?.parse()?)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn exposure_of_each_unit_is_what_is_documented() -> Result<()> {
    let _host = Host::install()?;
    let supervisor = "bulkhead-supervisor@red.service".to_owned();
    for (unit, limit) in [
        (BLUE.server(), CONFINED),
        (BLUE.vm(), CONFINED),
        (supervisor, SUPERVISOR),
    ] {
        let found = exposure(&unit)?;
        println!("{unit}: {found}");
        ensure!(found < limit, "{unit}: {found}, and {limit} is the limit");
    }
    Ok(())
}
