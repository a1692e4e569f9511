//! Children started through `sandbox::prepare`, as the kernel sees them.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that goes wrong"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::prepare::{Child, ChildProcess, Ending, PidNamespace, PrepareError};

const PATIENCE: Duration = Duration::from_secs(10);

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn temporary_file(text: &str) -> OwnedFd {
    let mut file =
        fs::File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn fds_of(pid: i32) -> BTreeMap<i32, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(Result::unwrap);
    entries
        .map(|e| {
            (
                e.file_name().to_str().unwrap().parse().unwrap(),
                fs::read_link(e.path()).unwrap(),
            )
        })
        .collect()
}

fn status_field(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap()
        .trim()
        .to_owned()
}

fn wait_until_gone(pid: i32) {
    let end = Instant::now() + PATIENCE;
    // A killed process may stay as a zombie until init reaps it: that is gone enough.
    let running =
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while running() {
        assert!(Instant::now() < end, "process {pid} still runs");
        std::thread::yield_now();
    }
}

fn sleeper() -> ChildProcess {
    Child::new("/bin/sleep", args(&["60"])).spawn().unwrap()
}

#[test]
fn child_holds_exactly_the_listed_fds() {
    let inherited_by_mistake = temporary_file("leak");
    rustix::io::fcntl_setfd(&inherited_by_mistake, rustix::io::FdFlags::empty()).unwrap();
    let mut child = Child::new("/bin/sleep", args(&["60"]))
        .fd(3, temporary_file("three"))
        .fd(9, temporary_file("nine"))
        .spawn()
        .unwrap();

    let fds = fds_of(child.pid());

    assert_eq!(fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 9]);
    assert_eq!(fds[&0], PathBuf::from("/dev/null"));
    assert_eq!(fds[&1], PathBuf::from("/dev/null"));
    assert_eq!(child.kill(PATIENCE).unwrap(), Some(Ending::Killed(9)));
}

#[test]
fn fds_whose_numbers_are_each_others_targets_are_not_mixed_up() {
    let (first, second) = (temporary_file("first"), temporary_file("second"));
    let (at_first, at_second) = (first.as_raw_fd(), second.as_raw_fd());
    let output = temporary_file("");
    let reader = output.try_clone().unwrap();
    let script = format!("cat /proc/self/fd/{at_second} /proc/self/fd/{at_first}");
    let mut child = Child::new("/bin/sh", args(&["-c", &script]))
        .fd(1, output)
        .fd(at_second, first)
        .fd(at_first, second)
        .spawn()
        .unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ending::Exited(0)));

    let text = fs::read_to_string(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();

    assert_eq!(text, "firstsecond");
}

#[test]
fn child_environment_is_the_listed_one() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut child = Child::new("/usr/bin/env", Vec::new()).fd(1, writer);
    child.environment = vec![("COLOUR".into(), "blue".into())];
    let mut child = child.spawn().unwrap();
    let mut text = String::new();
    fs::File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "COLOUR=blue\n");
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ending::Exited(0)));
}

#[test]
fn child_signal_mask_is_empty_and_nothing_is_ignored() {
    // The Rust runtime ignores SIGPIPE in this process; exec would pass that on.
    let child = sleeper();
    assert_eq!(status_field(child.pid(), "SigBlk:"), "0000000000000000");
    assert_eq!(status_field(child.pid(), "SigIgn:"), "0000000000000000");
}

#[test]
fn new_session_leaves_the_session_of_the_parent() {
    let mut child = Child::new("/bin/sleep", args(&["60"]));
    child.new_session = true;
    let child = child.spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, child.pid().to_string());
}

#[test]
fn child_in_a_new_pid_namespace_is_its_first_process_and_dies_like_any_other() {
    let mut child = Child::new("/bin/sleep", args(&["60"]));
    child.pid_namespace = PidNamespace::Own;
    let mut child = child.spawn().unwrap();
    let numbers = status_field(child.pid(), "NSpid:");
    assert_eq!(numbers.split_whitespace().last(), Some("1"));
    assert_eq!(child.kill(PATIENCE).unwrap(), Some(Ending::Killed(9)));
}

#[test]
fn missing_program_is_an_error_that_names_it() {
    let error = Child::new("/no/such/program", Vec::new())
        .spawn()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "execute the program for /no/such/program"
    );
    let PrepareError::Child { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn number_taken_twice_is_refused() {
    let child = Child::new("/bin/true", Vec::new())
        .fd(5, temporary_file("a"))
        .fd(5, temporary_file("b"));
    assert!(matches!(
        child.spawn().unwrap_err(),
        PrepareError::BadNumber { number: 5, .. }
    ));
}

#[test]
fn number_above_the_limit_is_refused() {
    let child = Child::new("/bin/true", Vec::new()).fd(401, temporary_file("a"));
    assert!(matches!(
        child.spawn().unwrap_err(),
        PrepareError::BadNumber { number: 401, .. }
    ));
}

#[test]
fn wait_returns_at_its_deadline_while_the_child_runs() {
    let mut child = sleeper();
    assert_eq!(child.wait(Duration::from_millis(50)).unwrap(), None);
    child.signal(rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ending::Killed(15)));
}

#[test]
fn dropped_child_is_killed_and_reaped() {
    let child = sleeper();
    let pid = child.pid();
    drop(child);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

/// Not a test of its own: the parent that `parent_death_kills_the_child` kills.
#[test]
#[ignore = "run by parent_death_kills_the_child"]
fn parent_that_waits() {
    let mut child = sleeper();
    println!("child {}", child.pid());
    child.wait(Duration::from_secs(60)).unwrap();
}

#[test]
fn parent_death_kills_the_child() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "parent_that_waits",
            "--nocapture",
            "--test-threads=1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let pid = lines
        .find_map(|line| Some(line.split_once("child ")?.1.parse::<i32>().unwrap()))
        .unwrap();
    assert_eq!(status_field(pid, "Name:"), "sleep");

    parent.kill().unwrap();
    parent.wait().unwrap();

    wait_until_gone(pid);
}

#[test]
fn adopt_fd_takes_an_inherited_number_once() {
    let number = temporary_file("inherited").into_raw_fd();
    // What exec leaves behind is a number without close-on-exec.
    let borrowed = fs::File::open(format!("/proc/self/fd/{number}")).unwrap();
    let inherited = rustix::io::fcntl_dupfd_cloexec(&borrowed, 100).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let number = inherited.into_raw_fd();

    let owned = sandbox::sys::adopt_fd(number).unwrap();

    assert!(
        rustix::io::fcntl_getfd(&owned)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
    let again = sandbox::sys::adopt_fd(number).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::ResourceBusy);
}

#[test]
fn adopt_fd_refuses_what_is_not_open_and_the_standard_streams() {
    assert_eq!(
        sandbox::sys::adopt_fd(399).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    assert_eq!(
        sandbox::sys::adopt_fd(1).unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
    assert_eq!(
        sandbox::sys::adopt_fd(-1).unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
}
