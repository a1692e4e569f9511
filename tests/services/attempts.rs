//! What each directive of the units stops: an attempt that succeeds in a service without it, and fails in one that has it alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::packaged::UNITS as UNITS_FOLDER;

use crate::installed::{Host, run};

/// The units of which every directive is tried.
const UNITS: [&str; 3] = [
    "bulkhead-device-server@.service",
    "bulkhead-vmm@.service",
    "bulkhead-supervisor@.service",
];
/// The first of them. What stands before says what the service is, and how much it may have.
const FIRST: &str = "NoNewPrivileges=";
/// What cannot be tried, and why.
const NOT_TRIED: [(&str, &str); 4] = [
    ("DeviceAllow", "gives what DevicePolicy= has taken"),
    ("AmbientCapabilities", "empty, as without it"),
    ("KeyringMode", "private, as without it"),
    ("RemoveIPC", "acts when nobody runs any more"),
];

/// Starts all, each twice.
const TARGET: &str = "attempts.target";
/// A folder on a file system on which set-user-ID counts.
const PLACE: &str = "/var/attempts";

/// Who tries: root, whom some directives do not stop, or a user, who is not allowed most things anyway.
#[derive(Debug, Clone, Copy)]
enum By {
    Root,
    Nobody,
}

/// A directive, its value, who tries, and the script that it stops.
type Attempt = (&'static str, &'static str, By, &'static str);

const ATTEMPTS: &[Attempt] = &[
    (
        "NoNewPrivileges",
        "yes",
        By::Nobody,
        "./bash -p -c ': <of-root'",
    ),
    ("CapabilityBoundingSet", "", By::Root, "chown 1 owned"),
    ("DevicePolicy", "closed", By::Root, ": </dev/kvm"),
    (
        "PrivateNetwork",
        "yes",
        By::Root,
        "ip addr show lo | grep -q 10.99.0.1",
    ),
    (
        "PrivateIPC",
        "yes",
        By::Root,
        "grep -qx 12345 /proc/sys/kernel/msgmax",
    ),
    (
        "RestrictAddressFamilies",
        "AF_UNIX",
        By::Root,
        "ip addr show lo",
    ),
    (
        "RestrictAddressFamilies",
        "AF_UNIX AF_NETLINK",
        By::Root,
        "ping -c 1 -W 2 127.0.0.1",
    ),
    ("IPAddressDeny", "any", By::Root, "ping -c 1 -W 2 127.0.0.1"),
    ("ProtectSystem", "strict", By::Root, "touch /etc/attempt"),
    ("ProtectHome", "yes", By::Root, "cat /root/attempt"),
    ("PrivateTmp", "yes", By::Root, "cat /tmp/attempt"),
    (
        "ProtectProc",
        "invisible",
        By::Nobody,
        "cat /proc/1/cmdline",
    ),
    ("ProcSubset", "pid", By::Root, "cat /proc/meminfo"),
    (
        "ProtectKernelTunables",
        "yes",
        By::Root,
        "echo 12345 >/proc/sys/kernel/msgmax",
    ),
    (
        "ProtectKernelModules",
        "yes",
        By::Root,
        "cat /usr/lib/modules/*/modules.dep",
    ),
    ("ProtectKernelLogs", "yes", By::Root, "dmesg"),
    (
        "ProtectControlGroups",
        "yes",
        By::Root,
        "mkdir /sys/fs/cgroup/attempt && rmdir /sys/fs/cgroup/attempt",
    ),
    (
        "ProtectClock",
        "yes",
        By::Root,
        "! date -s @$(date +%s) 2>&1 | grep \"can't\"",
    ),
    ("ProtectHostname", "yes", By::Root, "hostname lab"),
    ("RestrictNamespaces", "yes", By::Root, "unshare -m true"),
    ("LockPersonality", "yes", By::Root, "linux32 true"),
    ("MemoryDenyWriteExecute", "yes", By::Root, "./write-execute"),
    ("RestrictRealtime", "yes", By::Root, "./real-time"),
    ("RestrictSUIDSGID", "yes", By::Root, "chmod 4755 owned"),
    (
        "SystemCallArchitectures",
        "native",
        By::Root,
        "./of-32-bits",
    ),
    (
        "SystemCallFilter",
        "@system-service",
        By::Root,
        "strace -o trace true",
    ),
    (
        "SystemCallFilter",
        "~@debug",
        By::Root,
        "strace -o trace true",
    ),
    (
        "SystemCallFilter",
        "~@privileged",
        By::Root,
        "chroot / true",
    ),
    ("SystemCallFilter", "~@resources", By::Root, "./real-time"),
    ("SystemCallFilter", "~@keyring", By::Root, "./keyring"),
    (
        "SystemCallFilter",
        "~io_uring_setup",
        By::Root,
        "./io-uring",
    ),
    (
        "SystemCallFilter",
        "~@mount",
        By::Root,
        "mount -t tmpfs none /mnt && umount /mnt",
    ),
];

/// x86-64: maps a page for writing and execution.
const WRITE_EXECUTE: &[u8] = &[
    0xb8, 0x09, 0x00, 0x00, 0x00, //             mov eax, mmap
    0x31, 0xff, //                               xor edi, edi
    0xbe, 0x00, 0x10, 0x00, 0x00, //             mov esi, 4096
    0xba, 0x07, 0x00, 0x00, 0x00, //             mov edx, read | write | execute
    0x41, 0xba, 0x22, 0x00, 0x00, 0x00, //       mov r10d, private | anonymous
    0x49, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, // mov r8, -1
    0x45, 0x31, 0xc9, //                         xor r9d, r9d
    0x0f, 0x05, //                               syscall
];

/// x86-64: asks to be scheduled before all that is not real-time.
const REAL_TIME: &[u8] = &[
    0x6a, 0x01, //                   push 1, the priority
    0xb8, 0x90, 0x00, 0x00, 0x00, // mov eax, sched_setscheduler
    0x31, 0xff, //                   xor edi, edi
    0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi, FIFO
    0x48, 0x89, 0xe2, //             mov rdx, rsp
    0x0f, 0x05, //                   syscall
];

/// x86-64: asks for its session's keyring.
const KEYRING: &[u8] = &[
    0xb8, 0xfa, 0x00, 0x00, 0x00, // mov eax, keyctl
    0x31, 0xff, //                   xor edi, edi: its number
    0xbe, 0xfd, 0xff, 0xff, 0xff, // mov esi, -3: the session's
    0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1: made where there is none
    0x0f, 0x05, //                   syscall
];

/// x86-64: makes an io_uring, with the zeros below the stack as its parameters.
const IO_URING: &[u8] = &[
    0xb8, 0xa9, 0x01, 0x00, 0x00, //                   mov eax, io_uring_setup
    0xbf, 0x01, 0x00, 0x00, 0x00, //                   mov edi, 1
    0x48, 0x8d, 0xb4, 0x24, 0x00, 0xff, 0xff, 0xff, // lea rsi, [rsp - 256]
    0x0f, 0x05, //                                     syscall
];

/// x86-64: exits with 0 if the call before succeeded, else with 1.
const SO_EXIT: &[u8] = &[
    0x31, 0xff, //                   xor edi, edi
    0x48, 0x85, 0xc0, //             test rax, rax
    0x79, 0x02, //                   jns over the next
    0xff, 0xc7, //                   inc edi
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, exit
    0x0f, 0x05, //                   syscall
];

/// 80386: exits with 0, by a system call of its own kind.
const OF_32_BITS: &[u8] = &[
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, exit
    0x31, 0xdb, //                   xor ebx, ebx
    0xcd, 0x80, //                   int 0x80
];

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn every_directive_of_the_units_stops_an_attempt() -> Result<()> {
    let host = Host::install()?;
    for unit in UNITS {
        every_directive_is_tried(unit)?;
    }
    prepare()?;
    for (number, attempt) in ATTEMPTS.iter().enumerate() {
        write_units(number, attempt)?;
    }
    host.systemctl(&["daemon-reload"])?;
    // Half of them fail, as they shall.
    host.systemctl(&["start", TARGET])?;
    let mut wrong = Vec::new();
    for (number, attempt) in ATTEMPTS.iter().enumerate() {
        for (unit, expected) in [(free(number), "inactive"), (bound(number), "failed")] {
            let state = host.property(&unit, "ActiveState")?;
            if state != expected {
                wrong.push(format!(
                    "{attempt:?}: {unit} is {state}: {}",
                    host.journal(&unit)
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn free(number: usize) -> String {
    format!("attempt-{number}-free.service")
}

fn bound(number: usize) -> String {
    format!("attempt-{number}-bound.service")
}

/// A script, and two services that run it: with the directive and without.
fn write_units(number: usize, (directive, value, by, script): &Attempt) -> Result<()> {
    let file = format!("{PLACE}/{number}.sh");
    fs::write(&file, script)?;
    let user = match by {
        By::Root => "root",
        By::Nobody => "nobody",
    };
    let wants = Path::new(UNITS_FOLDER).join(format!("{TARGET}.wants"));
    fs::create_dir_all(&wants)?;
    for (unit, line) in [
        (free(number), String::new()),
        (bound(number), format!("{directive}={value}\n")),
    ] {
        let text = format!(
            "[Service]\nType=oneshot\nUser={user}\nWorkingDirectory={PLACE}\nExecStart=/bin/sh {file}\n{line}"
        );
        let path = Path::new(UNITS_FOLDER).join(&unit);
        fs::write(&path, text)?;
        symlink(path, wants.join(unit))?;
    }
    Ok(fs::write(Path::new(UNITS_FOLDER).join(TARGET), "[Unit]\n")?)
}

/// What the attempts find on the host.
fn prepare() -> Result<()> {
    fs::create_dir_all(PLACE)?;
    for (name, mode) in [("of-root", 0o600), ("owned", 0o755)] {
        file(&format!("{PLACE}/{name}"), b"something", mode)?;
    }
    for path in ["/root/attempt", "/tmp/attempt"] {
        file(path, b"something", 0o644)?;
    }
    file(
        &format!("{PLACE}/bash"),
        &fs::read("/usr/bin/bash")?,
        0o4755,
    )?;
    for (name, code) in [
        ("write-execute", WRITE_EXECUTE),
        ("real-time", REAL_TIME),
        ("keyring", KEYRING),
        ("io-uring", IO_URING),
    ] {
        let program = wide_program(&[code, SO_EXIT].concat())?;
        file(&format!("{PLACE}/{name}"), &program, 0o755)?;
    }
    let narrow = narrow_program(OF_32_BITS)?;
    file(&format!("{PLACE}/of-32-bits"), &narrow, 0o755)?;
    fs::write("/proc/sys/kernel/msgmax", "12345")?;
    run("ip", &["addr", "add", "10.99.0.1/32", "dev", "lo"])?;
    Ok(())
}

fn file(path: &str, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| path.to_owned())?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Every directive from the first on has its attempt, with the value that the unit has.
fn every_directive_is_tried(unit: &str) -> Result<()> {
    let text = fs::read_to_string(Path::new(UNITS_FOLDER).join(unit))?;
    let lines = text.lines().skip_while(|line| !line.starts_with(FIRST));
    let lines = lines.take_while(|line| !line.starts_with('['));
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (directive, value) = line.split_once('=').with_context(|| line.to_owned())?;
        let not_tried = NOT_TRIED.iter().any(|(name, _)| *name == directive);
        for part in parts(directive, value) {
            let tried = |(name, tried, ..): &Attempt| *name == directive && *tried == part;
            ensure!(
                not_tried || ATTEMPTS.iter().any(tried),
                "{unit}: nobody tries what {directive}={part} stops"
            );
        }
    }
    Ok(())
}

/// What a line stops: one thing, but for filters of calls. They stop what is in each set that they take, and what is not in the set
/// that they begin with; calls by name are given.
fn parts(directive: &str, value: &str) -> Vec<String> {
    match (directive, value.strip_prefix('~')) {
        ("SystemCallFilter", Some(sets)) => {
            let sets = sets.split(' ');
            sets.map(|set| format!("~{set}")).collect()
        }
        ("SystemCallFilter", None) if !value.starts_with('@') => Vec::new(),
        _ => vec![value.to_owned()],
    }
}

/// An x86-64 program of this code alone (ELF-64: a header, one segment, the code).
fn wide_program(code: &[u8]) -> Result<Vec<u8>> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = HEADERS + u64::try_from(code.len())?;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [BASE + HEADERS, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, 1, 0, 0, 0_u16] {
        program.extend(half.to_le_bytes());
    }
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, length, length, 4096] {
        program.extend(word.to_le_bytes());
    }
    program.extend(code);
    Ok(program)
}

/// An 80386 program of this code alone (ELF-32: a header, one segment, the code).
fn narrow_program(code: &[u8]) -> Result<Vec<u8>> {
    const BASE: u32 = 0x804_8000;
    const HEADERS: u32 = 52 + 32;
    let length = HEADERS + u32::try_from(code.len())?;
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
    for word in [BASE + HEADERS, 52, 0, 0] {
        program.extend(word.to_le_bytes());
    }
    for half in [52, 32, 1, 0, 0, 0_u16] {
        program.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, length, length, 5, 4096] {
        program.extend(word.to_le_bytes());
    }
    program.extend(code);
    Ok(program)
}
