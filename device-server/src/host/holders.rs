//! Which processes hold a device node open, or a BAR of a VFIO device mapped.
//!
//! Processes of other users may hide theirs.

use std::fmt;
use std::path::{Path, PathBuf};

/// A process, for an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number in our /proc.
    pub pid: u32,
    /// Its name, as /proc/PID/comm has it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

const PROC: &str = "/proc";

/// The processes other than this one that have `node` open, as far as /proc shows.
pub fn holders_of(node: &Path) -> Vec<Holder> {
    holders_in(Path::new(PROC), &|file| file == node)
        .into_iter()
        .map(|(holder, _)| holder)
        .collect()
}

/// The wanted files that processes other than this one have open, as far as `proc` shows.
pub(super) fn holders_in(proc: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<(Holder, PathBuf)> {
    let mut found = Vec::new();
    for holder in processes(proc) {
        for file in open_files(proc, holder.pid) {
            let pair = (holder.clone(), file);
            if wanted(&pair.1) && !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

/// The processes other than this one that map a BAR of some VFIO device. The kernel does not show of which.
pub fn holders_of_bar_mappings() -> Vec<Holder> {
    let proc = Path::new(PROC);
    let mut holders = processes(proc);
    holders.retain(|holder| maps_vfio_device(proc, holder.pid));
    holders
}

/// Whether some process other than this one maps a BAR of some VFIO device.
pub(super) fn maps_bars_in(proc: &Path) -> bool {
    let processes = processes(proc);
    processes
        .iter()
        .any(|holder| maps_vfio_device(proc, holder.pid))
}

/// Whether there may be processes whose open files `proc` does not show: it is that of a container, or of a user.
pub(super) fn hides_processes(proc: &Path) -> bool {
    // Process 2 is the kernel's in the host's pid namespace only; root alone sees what process 1 has open.
    name_of(proc, 2) != "kthreadd" || std::fs::read_dir(proc.join("1/fd")).is_err()
}

fn processes(proc: &Path) -> Vec<Holder> {
    let Ok(entries) = std::fs::read_dir(proc) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .map(|pid| Holder {
            pid,
            name: name_of(proc, pid),
        })
        .collect()
}

fn name_of(proc: &Path, pid: u32) -> String {
    let name = std::fs::read_to_string(proc.join(format!("{pid}/comm"))).unwrap_or_default();
    // The name is the process's own choice: keep only what cannot break a log line.
    name.trim()
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .collect()
}

fn open_files(proc: &Path, pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(proc.join(format!("{pid}/fd"))) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .collect()
}

fn maps_vfio_device(proc: &Path, pid: u32) -> bool {
    std::fs::read_to_string(proc.join(format!("{pid}/maps"))).is_ok_and(|maps| {
        maps.contains("anon_inode:[vfio-device]") || maps.contains("/dev/vfio/devices/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_finds_the_process_that_has_the_file_open() {
        let path = std::env::temp_dir().join(format!("bulkhead-holders-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(file)
            .spawn()
            .unwrap();
        let pid = child.id();
        // The child's stdout is the file from before exec on: visible at once.
        let found = holders_of(&path);
        drop(child.stdin.take());
        child.wait().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(found.iter().any(|holder| holder.pid == pid), "{found:?}");
        assert!(found.iter().all(|holder| holder.pid != std::process::id()));
    }
}
