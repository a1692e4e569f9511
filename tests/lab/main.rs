//! scripts/lab as its user sees it: statuses, deadlines, results, and what it says when it cannot start.
//!
//! Runs on this machine (scripts/test, step "lab script"); some tests need root.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use harness::scratch::Scratch;

/// scripts/lab with its results in `scratch`.
fn lab(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("scripts/lab"));
    command
        .args(arguments)
        .env("LAB_OUT", scratch.file("results"))
        .stdin(Stdio::null());
    command
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn command_has_its_output_status_and_results() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = "echo to-stdout; echo to-stderr >&2; echo kept >$LAB_OUT/file; exit 7";
    let output = lab(&scratch, &["--", "sh", "-c", script]).output()?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(output.stdout, b"to-stdout\n");
    assert!(said(&output).contains("to-stderr\n"), "{}", said(&output));
    let kept = fs::read_to_string(format!("{}/file", scratch.file("results")))?;
    assert_eq!(kept, "kept\n");
    Ok(())
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn systemd_runs_the_machine_when_asked_and_the_command_is_a_service() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = "cat /proc/1/comm; systemctl is-system-running --wait; systemctl --failed --no-legend; \
                  systemctl is-active lab.service; echo kept >$LAB_OUT/file; exit 7";
    let words = ["--init", "systemd", "--memory", "1024"];
    let output = lab(&scratch, &words)
        .args(["--", "sh", "-c", script])
        .output()?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(output.stdout, b"systemd\nrunning\nactive\n");
    let kept = fs::read_to_string(format!("{}/file", scratch.file("results")))?;
    assert_eq!(kept, "kept\n");
    Ok(())
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn command_that_outlasts_the_timeout_is_stopped_with_status_124() -> Result<()> {
    let scratch = Scratch::new()?;
    let arguments = [
        "--timeout",
        "30",
        "--",
        "sh",
        "-c",
        "echo begun; sleep 1000",
    ];
    let output = lab(&scratch, &arguments).output()?;
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    assert_eq!(output.stdout, b"begun\n");
    assert!(
        said(&output).contains("did not end within 30 s"),
        "{}",
        said(&output)
    );
    Ok(())
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn boot_that_hangs_ends_at_the_timeout() -> Result<()> {
    let scratch = Scratch::new()?;
    // -S: QEMU starts with its CPUs stopped.
    let arguments = ["--qemu-arg", "-S", "--timeout", "5", "--", "true"];
    let output = lab(&scratch, &arguments).output()?;
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    let expected = "the timeout of 5 s ended before the lab machine was up";
    assert!(said(&output).contains(expected), "{}", said(&output));
    Ok(())
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn machine_that_dies_before_it_is_up_is_booted_three_times() -> Result<()> {
    let scratch = Scratch::new()?;
    // The last -append counts; a kernel without an init panics.
    let no_init = "--qemu-arg=console=ttyS0 panic=-1 rdinit=/none";
    let arguments = ["--qemu-arg=-append", no_init, "--", "true"];
    let output = lab(&scratch, &arguments).output()?;
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let died = said(&output)
        .matches("the lab machine ended before it was up")
        .count();
    assert_eq!(died, 3, "{}", said(&output));
    Ok(())
}

#[test]
#[ignore = "boots a lab machine: scripts/test"]
fn machine_that_stands_still_is_given_up() -> Result<()> {
    let scratch = Scratch::new()?;
    // QEMU pauses the machine where it would end it.
    let still = ["--qemu-arg=-action", "--qemu-arg=shutdown=pause"];
    let output = lab(&scratch, &still)
        .args(["--still-timeout", "10"])
        .args(["--", "sh", "-c", "sleep 6; busybox poweroff -f"])
        .output()?;
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let expected = "the lab machine has stood still for 10 s";
    assert!(said(&output).contains(expected), "{}", said(&output));
    Ok(())
}

#[test]
#[ignore = "uses the lab's cache: scripts/test"]
fn memory_that_is_not_there_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let output = lab(&scratch, &["--memory", "1000000", "--", "true"]).output()?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let expected =
        "of memory are free, the lab needs 1000256: free some, or give a smaller --memory";
    assert!(said(&output).contains(expected), "{}", said(&output));
    Ok(())
}

#[test]
#[ignore = "hides this machine's package sources, as root: scripts/test"]
fn missing_package_is_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = format!(
        "mount -t tmpfs none /etc/apt && exec {}/scripts/lab -- true",
        root().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("LAB_OUT", scratch.file("results"))
        .env("XDG_CACHE_HOME", scratch.file("cache"))
        .stdin(Stdio::null())
        .output()
        .context("unshare (Debian package util-linux)")?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let last = said(&output);
    let last = last.lines().last().unwrap_or_default();
    assert!(last.starts_with("lab: "), "{last}");
    assert!(last.contains("/etc/apt"), "{last}");
    Ok(())
}
