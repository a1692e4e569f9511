//! The package's files at their places in the lab machine, as if it were installed there (docs/services.md says what belongs where).
//!
//! Lab machine: systemd, and `packaging` copied in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs;

/// Where the lab puts what `--copy-in` names.
const PACKAGING: &str = "/lab/in/packaging";
/// Where the units are.
pub const UNITS: &str = "/etc/systemd/system";

/// Puts everything where the package would. Doing it again does no harm. systemd and udev are not told.
pub fn install() -> Result<()> {
    run("cp", &["-r", &format!("{PACKAGING}/systemd/."), UNITS])?;
    run(
        "mkdir",
        &["-p", "/usr/libexec/bulkhead", "/etc/udev/rules.d"],
    )?;
    run(
        "cp",
        &[
            &format!("{PACKAGING}/udev/60-bulkhead.rules"),
            "/etc/udev/rules.d/",
        ],
    )?;
    let generator = "/etc/systemd/system-generators/bulkhead";
    run("mkdir", &["-p", "/etc/systemd/system-generators"])?;
    run("cp", &[&format!("{PACKAGING}/generator"), generator])?;
    fs::set_permissions(generator, fs::Permissions::from_mode(0o755))?;
    let lend = "/usr/libexec/bulkhead/lend-node";
    run("cp", &[&format!("{PACKAGING}/lend-node"), lend])?;
    fs::set_permissions(lend, fs::Permissions::from_mode(0o755))?;
    for program in [programs::VMM, programs::DEVICE_SERVER] {
        let link = PathBuf::from("/usr/bin").join(program);
        if !link.exists() {
            symlink(programs::find(program)?, link)?;
        }
    }
    run(
        "systemd-sysusers",
        &[&format!("{PACKAGING}/sysusers/bulkhead.conf")],
    )?;
    run(
        "systemd-tmpfiles",
        &["--create", &format!("{PACKAGING}/tmpfiles/bulkhead.conf")],
    )?;
    Ok(())
}

/// Runs a program, which must succeed; gives what it printed.
pub fn run(program: &str, words: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(words)
        .output()
        .context(program.to_owned())?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{program} {words:?}: {}: {errors}",
        done.status
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
