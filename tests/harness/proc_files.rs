//! What the kernel says of a process: files, mappings, memory, context switches, relatives. From /proc.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// One line of /proc/PID/maps, with its share of memory from smaps.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub size_bytes: u64,
    /// As in the file: "rw-s".
    pub permissions: String,
    pub inode: u64,
    /// What is mapped: a path, "/memfd:name (deleted)", "[heap]" or nothing.
    pub name: String,
    /// Proportional set size: pages, each divided by the number of processes that map it.
    pub pss_kib: u64,
    /// Of shared memory: what is mapped by huge pages.
    pub huge_kib: u64,
}

impl Mapping {
    /// True for a shared mapping of a memfd, which is what guest RAM is.
    pub fn is_shared_memfd(&self) -> bool {
        self.permissions.ends_with('s') && self.name.starts_with("/memfd:")
    }
}

/// What each open fd of a process refers to, such as "/dev/kvm" or "anon_inode:[eventfd]".
pub fn open_files(pid: u32) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in
        fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("fds of process {pid}"))?
    {
        // An fd that was closed since then is not open.
        if let Ok(target) = fs::read_link(entry?.path()) {
            targets.push(target.display().to_string());
        }
    }
    targets.sort();
    Ok(targets)
}

/// True for an fd that gives power over a VFIO device: a group, a container, a cdev or the device itself.
pub fn is_vfio(target: &str) -> bool {
    target.starts_with("/dev/vfio") || target.starts_with("/dev/iommu") || target.contains("[vfio")
}

/// All mappings of a process.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))
        .with_context(|| format!("smaps of process {pid}"))?;
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = mapping_header(line) {
            found.push(mapping);
            continue;
        }
        let Some((mapping, (name, value))) = found.last_mut().zip(line.split_once(':')) else {
            continue;
        };
        let kib = || value.trim().trim_end_matches(" kB").parse();
        match name {
            "Pss" => mapping.pss_kib = kib()?,
            "ShmemPmdMapped" => mapping.huge_kib = kib()?,
            _ => {}
        }
    }
    Ok(found)
}

/// "7f12-7f34 rw-s 00000000 00:01 1027  /memfd:guest-ram (deleted)"
fn mapping_header(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    let permissions = words.next()?.to_owned();
    let inode = words.nth(2)?.parse().ok()?;
    let name = words.collect::<Vec<_>>().join(" ");
    Some(Mapping {
        size_bytes: end - start,
        permissions,
        inode,
        name,
        pss_kib: 0,
        huge_kib: 0,
    })
}

/// What /proc/PID/status says of every thread of a process in this row, without repetitions: one value where all agree.
pub fn status_of_threads(pid: u32, row: &str) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let mut rows = status.lines().filter_map(|line| line.split_once(':'));
        let found = rows.find(|(name, _)| *name == row);
        let (_, value) = found.with_context(|| format!("{row} in the status of {pid}"))?;
        values.push(value.trim().to_owned());
    }
    values.sort();
    values.dedup();
    Ok(values)
}

/// Voluntary and involuntary context switches of all threads of a process, together.
pub fn context_switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for line in status
            .lines()
            .filter(|line| line.contains("ctxt_switches:"))
        {
            let (_, count) = line.split_once(':').context("a counter has a value")?;
            sum += count.trim().parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// The pids of `root` and of all that it started, directly or not, and that still hold something. A child of the supervisor
/// leads a session of its own and becomes a child of the test when its parent is gone (see `Process::start`): it belongs to
/// every family then, so that nobody can leave one behind unseen.
pub fn family(root: u32) -> Result<Vec<u32>> {
    let all: Vec<Relatives> = processes()?.into_iter().filter_map(relatives).collect();
    let mut members: Vec<u32> = all
        .iter()
        .filter(|one| one.pid == root || is_orphan(one))
        .map(|one| one.pid)
        .collect();
    let mut next = 0;
    while let Some(&parent) = members.get(next) {
        let children = all.iter().filter(|one| one.parent == parent);
        members.extend(children.map(|one| one.pid));
        next += 1;
    }
    members.sort_unstable();
    members.dedup();
    Ok(members)
}

/// One that a supervisor started which is not its parent any more.
fn is_orphan(one: &Relatives) -> bool {
    one.parent == std::process::id() && one.session == one.pid
}

/// The words of a process's command line.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|&byte| byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// A device server that waits for its device is started with this word, and has this name once it has left the host; one that has
/// its device has the other.
const SPARE: &str = "spare";
const WAITS: &str = "bulkhead-spare";
const SERVES: &str = "bulkhead-server";

/// Whether a device server has no device yet, and was started to wait for one.
pub fn is_spare(pid: u32) -> bool {
    let is_one = command_line(pid).get(1).is_some_and(|word| word == SPARE);
    is_one && name(pid) != SERVES
}

/// Whether it is in its sandbox, and nothing is left for it to do but to wait.
pub fn is_waiting_spare(pid: u32) -> bool {
    name(pid) == WAITS
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// All pids whose program file is called `name`.
pub fn running(name: &str) -> Result<Vec<u32>> {
    let is_called = |pid: &u32| {
        let program: PathBuf = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|file| file == name)
    };
    Ok(processes()?.into_iter().filter(is_called).collect())
}

fn processes() -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Ok(pid) = entry?.file_name().to_string_lossy().parse() {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Where /proc/PID/stat has the number of threads, counted from the state on.
const THREADS: usize = 17;

/// What /proc/PID/stat says of where a process comes from.
struct Relatives {
    pid: u32,
    parent: u32,
    session: u32,
}

/// "pid (name) state parent group session ..."; the name may hold anything, so the last parenthesis counts. None for a
/// process that holds nothing any more: a zombie whose other threads, if it had any, have ended too.
fn relatives(pid: u32) -> Option<Relatives> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["Z", ..] if words.get(THREADS) == Some(&"1") => None,
        [_, parent, _, session, ..] => Some(Relatives {
            pid,
            parent: parent.parse().ok()?,
            session: session.parse().ok()?,
        }),
        _ => None,
    }
}

/// A size of /proc/PID/status, in KiB, for example `VmRSS`.
pub fn status_kib(pid: u32, field: &str) -> Result<u64> {
    row_kib(&format!("/proc/{pid}/status"), field)
}

/// A size of /proc/meminfo, in KiB, for example `MemAvailable`.
pub fn host_memory_kib(field: &str) -> Result<u64> {
    row_kib("/proc/meminfo", field)
}

/// "field:   123 kB"
fn row_kib(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .with_context(|| format!("no {field} in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
