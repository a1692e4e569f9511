//! Start-up errors: one line that says what to do, exit status 1; 2 for wrong arguments.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use harness::deadline::eventually;
use sandbox::prepare::{Child, Ending};

use crate::support::{PATIENCE, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead-device-server");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .output()
        .expect("the program runs")
}

/// The program ends with status 1 and one line that contains `text`.
fn fails(arguments: &[&str], text: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(text), "{stderr}");
}

#[test]
fn socket_in_use_is_named() {
    let server = Server::start();
    let path = server.path();
    fails(
        &["test", "--socket", path.to_str().expect("UTF-8")],
        "another server listens on",
    );
    assert!(path.exists());
}

#[test]
fn directory_that_does_not_exist_is_named() {
    fails(
        &["test", "--socket", "/nonexistent/x.sock"],
        "/nonexistent/x.sock",
    );
}

#[test]
fn descriptor_that_was_not_passed_is_named() {
    fails(&["test", "--socket-fd", "77"], "77");
    fails(
        &["test", "--socket", "/tmp/never.sock", "--ready-fd", "77"],
        "77",
    );
    assert!(!PathBuf::from("/tmp/never.sock").exists());
}

#[test]
fn device_that_does_not_exist_is_named() {
    let arguments = [
        "vfio",
        "--host",
        "ffff:ff:1f.7",
        "--socket",
        "/tmp/never.sock",
    ];
    fails(&arguments, "ffff:ff:1f.7");
    assert!(!PathBuf::from("/tmp/never.sock").exists());
}

#[test]
fn wrong_arguments_have_status_2() {
    for arguments in [
        &["test"][..],
        &["vfio", "--host", "1a:00.0"],
        &["frobnicate"],
        &[],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn start_error_goes_to_the_ready_descriptor_and_not_to_stderr() {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let ((ready, ready_child), (stderr, stderr_child)) = (pipe(), pipe());
    let listener =
        UnixListener::bind(std::env::temp_dir().join(format!("busy-{}", std::process::id())));
    let path = std::env::temp_dir().join(format!("busy-{}", std::process::id()));
    let _listener = listener.expect("bind");
    let args = [
        "test",
        "--ready-fd",
        "8",
        "--socket",
        path.to_str().expect("UTF-8"),
    ];
    let args = args.iter().map(Into::into).collect();
    let child = Child::new(PROGRAM, args)
        .fd(8, ready_child)
        .fd(2, stderr_child);
    let mut process = child.spawn().expect("start");
    let mut line = String::new();
    std::fs::File::from(ready)
        .read_to_string(&mut line)
        .expect("ready line");
    let error: serde_json::Value = serde_json::from_str(line.trim_end()).expect("one line of JSON");
    assert!(
        error["error"]
            .as_str()
            .expect("text")
            .contains("another server listens"),
        "{line}"
    );
    assert_eq!(
        process.wait(PATIENCE).expect("wait"),
        Some(Ending::Exited(1))
    );
    let mut text = String::new();
    std::fs::File::from(stderr)
        .read_to_string(&mut text)
        .expect("stderr");
    assert_eq!(text, "");
    let _ = std::fs::remove_file(path);
}

/// The kernel's word for it, and the server's. Other tests run against servers that are confined so.
#[test]
fn server_of_the_test_device_is_confined_unless_told_otherwise() {
    for (options, capabilities, filters) in [
        (&[][..], "CapEff:\t0000000000000000", "Seccomp:\t2"),
        (&["--sandbox=off"][..], "CapEff:", "Seccomp:\t0"),
    ] {
        let server = Server::start_with(options);
        let status = server.status();
        for row in [capabilities, filters] {
            assert!(
                status.contains(row),
                "{options:?}: {row} is not in {status}"
            );
        }
    }
}

/// Of the program's pages; only the kernel counts them.
#[test]
fn server_that_is_ready_has_let_go_of_what_only_its_start_needed() {
    let server = Server::start();
    let settled = eventually("fewer pages than at the start", PATIENCE, || {
        let status = server.status();
        let (now, most) = (kib(&status, "VmRSS"), kib(&status, "VmHWM"));
        (now < most / 4 * 3).then_some(())
    });
    settled.unwrap_or_else(|error| panic!("{error}: {}", server.status()));
}

fn kib(status: &str, row: &str) -> u64 {
    let mut rows = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = rows.find(|(name, _)| *name == row).expect("a row");
    let value = value.trim().trim_end_matches(" kB");
    value.parse().expect("a number")
}
