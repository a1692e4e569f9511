//! Which processes hold a device node open, or a BAR of a VFIO device mapped.
//!
//! Only asked when the kernel has said EBUSY, to name the culprit. Processes of other users may hide theirs.

use std::path::Path;

/// A process, for an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number in our /proc.
    pub pid: u32,
    /// Its name, as /proc/PID/comm has it.
    pub name: String,
}

/// The processes other than this one that have `node` open, as far as /proc shows.
pub fn holders_of(node: &Path) -> Vec<Holder> {
    processes()
        .into_iter()
        .filter(|holder| has_open(holder.pid, node))
        .collect()
}

/// The processes other than this one that map a BAR of some VFIO device. The kernel does not show of which.
pub fn holders_of_bar_mappings() -> Vec<Holder> {
    processes()
        .into_iter()
        .filter(|holder| maps_vfio_device(holder.pid))
        .collect()
}

fn processes() -> Vec<Holder> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .map(|pid| Holder {
            pid,
            name: name_of(pid),
        })
        .collect()
}

fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // The name is the process's own choice: keep only what cannot break a log line.
    name.trim()
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .collect()
}

fn has_open(pid: u32, node: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == node))
}

fn maps_vfio_device(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .is_ok_and(|maps| maps.contains("anon_inode:[vfio-device]"))
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
