//! A process that has confined itself, as the kernel shows it from outside. Run by root, these tests are about root and about a user.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that goes wrong"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use sandbox::prepare::{self, PidNamespace};

/// A user that this machine has no other process of.
const USER: u32 = 61_234;

/// A confined process; it ends with this value.
struct Confined {
    child: Child,
    _waits: ChildStdin,
    says: String,
}

/// Copies a program, in a process of its own: a child that another test forks at that moment would keep our descriptor, and
/// the kernel executes no file that is open for writing.
fn copy_program(program: &Path, to: &Path) {
    let status = Command::new("cp").args([program, to]).status().unwrap();
    assert!(status.success(), "cp: {status}");
}

/// A copy that a user without any right can execute, wherever the project is.
fn program_for_all() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        // Under one name, so that no test leaves more than one file behind.
        let copy = std::env::temp_dir().join("bulkhead-confined");
        let new = copy.with_extension(std::process::id().to_string());
        copy_program(Path::new(env!("CARGO_BIN_EXE_confined")), &new);
        fs::rename(new, &copy).unwrap();
        copy
    })
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program_for_all());
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn start(mut command: Command) -> Confined {
    let mut child = command.spawn().unwrap();
    let mut says = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut says)
        .unwrap();
    let waits = child.stdin.take().unwrap();
    Confined {
        child,
        _waits: waits,
        says,
    }
}

fn confined(arguments: &[&str]) -> Confined {
    start(command(arguments))
}

fn confined_as_user(arguments: &[&str]) -> Confined {
    let mut command = command(arguments);
    command.uid(USER).gid(USER);
    start(command)
}

/// What a start that fails says.
fn refusal(arguments: &[&str]) -> String {
    let mut confined = confined(arguments);
    assert_eq!(
        confined.child.wait().unwrap().code(),
        Some(1),
        "{}",
        confined.says
    );
    confined.says.clone()
}

impl Confined {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn status(&self) -> BTreeMap<String, String> {
        let fields = self.read("status");
        let fields = fields.lines().filter_map(|line| line.split_once(':'));
        fields
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Soft and hard.
    fn limit(&self, name: &str) -> (String, String) {
        let limits = self.read("limits");
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let mut values = line[26..].split_whitespace().map(str::to_owned);
        (values.next().unwrap(), values.next().unwrap())
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/ns/{kind}", self.child.id())).unwrap()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn own(kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()
}

fn holds_nothing(status: &BTreeMap<String, String>) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
}

#[test]
fn root_becomes_a_user_of_its_own_without_any_power() {
    if !is_root() {
        return;
    }
    let confined = confined(&["on"]);
    let status = confined.status();
    holds_nothing(&status);
    assert_eq!(status["CapBnd"], "0000000000000000");
    let uid = (0x7000_0000 + confined.child.id()).to_string();
    let ids = [uid.as_str(); 4].join("\t");
    assert_eq!((&status["Uid"], &status["Gid"]), (&ids, &ids));
    assert_eq!(status["Groups"], "");
    for kind in ["mnt", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(confined.namespace(kind), own(kind), "{kind}");
    }
    assert_eq!(confined.namespace("user"), own("user"), "its user is real");
    let root = format!("/proc/{}/root/", confined.child.id());
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn limits_are_those_of_the_role_and_cannot_be_raised() {
    if !is_root() {
        return;
    }
    let confined = confined(&["on"]);
    let both = |value: &str| (value.to_owned(), value.to_owned());
    assert_eq!(confined.limit("Max core file size"), both("0"));
    assert_eq!(confined.limit("Max locked memory"), both("0"));
    assert_eq!(confined.limit("Max open files"), both("16384"));
    assert_eq!(confined.limit("Max file size"), both("268435456"));
}

#[test]
fn uid_that_the_parent_chose_is_taken() {
    if !is_root() {
        return;
    }
    let confined = confined(&["on", "uid=200007"]);
    assert_eq!(confined.status()["Uid"], ["200007"; 4].join("\t"));
    assert!(
        confined.says.contains("identity: uid 200007"),
        "{}",
        confined.says
    );
}

#[test]
fn user_without_privilege_is_alone_in_a_user_namespace() {
    if !is_root() {
        return;
    }
    let confined = confined_as_user(&["on"]);
    let status = confined.status();
    holds_nothing(&status);
    let user = USER.to_string();
    assert_eq!(status["Uid"], [user.as_str(); 4].join("\t"));
    for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(
            confined.namespace(kind),
            own(kind),
            "{kind}: {}",
            confined.says
        );
    }
    let root = format!("/proc/{}/root/", confined.child.id());
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    let map = confined.read("uid_map");
    let numbers: Vec<_> = map.split_whitespace().collect();
    assert_eq!(numbers, [user.as_str(), &user, "1"]);
}

/// The parent makes the pid namespace, through a user namespace where it has no privilege.
#[test]
fn child_of_a_user_without_privilege_sees_no_other_process() {
    if !is_root() {
        return;
    }
    let name = format!("tests-{}", std::process::id());
    let tests = program_for_all().with_extension(name);
    copy_program(&std::env::current_exe().unwrap(), &tests);
    let output = Command::new(&tests)
        .args([
            "--ignored",
            "--exact",
            "parent_without_privilege",
            "--nocapture",
        ])
        .uid(USER)
        .gid(USER)
        .env("CONFINED", program_for_all())
        .output()
        .unwrap();
    fs::remove_file(tests).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("pid namespace: own"), "{text}");
    assert!(text.contains("user namespace: own"), "{text}");
    assert!(text.contains("root: empty, read-only"), "{text}");
}

/// Not a test of its own.
#[test]
#[ignore = "run by the one above, as a user"]
fn parent_without_privilege() {
    let program = std::env::var_os("CONFINED").unwrap();
    let mut child = prepare::Child::new(program, vec!["on".into(), "alone".into()]);
    child.pid_namespace = PidNamespace::OwnThroughUser;
    let (input, _waits) = rustix::pipe::pipe().unwrap();
    let (says, output) = rustix::pipe::pipe().unwrap();
    let process = child.fd(0, input).fd(1, output).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(fs::File::from(says))
        .read_line(&mut line)
        .unwrap();
    println!("{line}");
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let numbers = status.lines().find(|line| line.starts_with("NSpid:"));
    assert!(numbers.unwrap().ends_with("\t1"), "{status}");
}

#[test]
fn process_that_should_be_alone_and_is_not_does_not_start() {
    let text = refusal(&["on", "alone"]);
    assert!(text.contains("role vmm, pid namespace"), "{text}");
}

#[test]
fn missing_mechanism_ends_the_start_and_is_named_with_the_remedy() {
    if !is_root() {
        return;
    }
    for (call, mechanism) in [
        ("unshare", "mount namespace"),
        ("mount", "root"),
        ("setresuid", "identity"),
        ("capset", "capabilities"),
        ("landlock", "landlock"),
    ] {
        let text = refusal(&["on", &format!("without={call}")]);
        assert!(
            text.starts_with(&format!("sandbox role vmm, {mechanism}: ")),
            "{text}"
        );
        assert!(text.contains("--sandbox=best-effort"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn best_effort_does_without_what_is_missing_and_says_so() {
    if !is_root() {
        return;
    }
    for (call, mechanism) in [("unshare", "net namespace"), ("landlock", "landlock")] {
        let confined = confined(&["best-effort", &format!("without={call}")]);
        let (active, missing) = confined.says.split_once("NOT ENFORCED: ").unwrap();
        assert!(missing.contains(mechanism), "{}", confined.says);
        assert!(active.contains("identity: uid"), "{active}");
        holds_nothing(&confined.status());
    }
}

#[test]
fn descriptors_that_nobody_listed_are_closed() {
    let listed = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let stray = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    for fd in [&listed, &stray] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let keep = format!("keep={}", listed.as_raw_fd());
    let confined = confined(&["best-effort", &keep]);
    let fds = fs::read_dir(format!("/proc/{}/fd", confined.child.id())).unwrap();
    let mut fds: Vec<i32> = fds
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    fds.sort_unstable();
    assert_eq!(fds, [0, 1, 2, listed.as_raw_fd()], "{}", confined.says);
}

/// Nothing of what a service manager does is there when a test starts the process.
#[test]
fn inherited_refuses_a_process_that_nobody_has_confined() {
    if !is_root() {
        return;
    }
    let text = refusal(&["inherited"]);
    assert!(
        text.contains("identity") && text.contains("User="),
        "{text}"
    );
    let mut confined = confined_as_user(&["inherited"]);
    assert_eq!(confined.child.wait().unwrap().code(), Some(1));
    let mut rest = String::new();
    let _more = confined
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut rest);
    assert!(
        confined.says.contains("CapabilityBoundingSet="),
        "{}",
        confined.says
    );
}

#[test]
fn off_changes_nothing() {
    let confined = confined(&["off"]);
    assert_eq!(confined.says, "nothing\n");
    assert_eq!(confined.status()["NoNewPrivs"], "0");
}
