//! Who holds the devices of a group whose server has ended: nobody, somebody else by now, or still one of ours.
//!
//! A group has one opener. A mapping of a BAR of its devices counts as well: until the last is gone the node is busy
//! (kernel-vfio-facts.md section 10).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::hosts::VFIO_NODES;

/// Whether a group can be opened, or is not VFIO's any more.
pub(super) fn is_free(group: u32) -> bool {
    let opened = File::options().read(true).write(true).open(node(group));
    opened.map_or_else(
        |error| error.kind() != io::ErrorKind::ResourceBusy,
        |_| true,
    )
}

/// Whether a process that is none of `ours` has opened the group: then ours have let go, or it could not.
pub(super) fn has_another_opener(group: u32, ours: &[i32]) -> bool {
    openers(Path::new("/proc"), &node(group))
        .iter()
        .any(|pid| !ours.contains(pid))
}

fn node(group: u32) -> PathBuf {
    Path::new(VFIO_NODES).join(group.to_string())
}

/// The processes that have this file open, as far as this user may look.
fn openers(proc: &Path, file: &Path) -> Vec<i32> {
    let folders = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_it = |pid: &i32| {
        let fds = std::fs::read_dir(proc.join(format!("{pid}/fd")));
        let mut targets = fds.into_iter().flatten().flatten();
        targets.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == file))
    };
    pids.filter(has_it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_has_a_file_open_is_found_until_it_closes_it() {
        let path = std::env::temp_dir().join(format!("bulkhead-holders-{}", std::process::id()));
        let own = i32::try_from(std::process::id()).unwrap();
        let file = File::create(&path).unwrap();
        assert_eq!(openers(Path::new("/proc"), &path), [own]);
        drop(file);
        assert!(openers(Path::new("/proc"), &path).is_empty());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn group_without_a_node_is_not_held() {
        assert!(is_free(u32::MAX));
        assert!(!has_another_opener(u32::MAX, &[]));
    }
}
