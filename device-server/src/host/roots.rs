//! Where the kernel shows the host, and where this program remembers what it changed. Tests give a folder of their own.

use std::path::{Path, PathBuf};

use super::device::Sysfs;

/// The folders that everything in `host` reads and writes.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    /// /sys.
    pub(super) sysfs: Sysfs,
    /// /proc.
    pub(super) proc: PathBuf,
    /// /dev.
    pub(super) dev: PathBuf,
    /// /lib/modules.
    pub(super) modules: PathBuf,
    /// Locks, and the drivers that devices had: gone after a reboot, as the bindings are.
    pub(super) run: PathBuf,
}

impl Roots {
    /// The host's own.
    pub(super) fn of_host() -> Roots {
        Roots {
            run: PathBuf::from("/run/bulkhead/host"),
            ..Roots::below(Path::new("/"))
        }
    }

    /// A folder that looks like /.
    pub(super) fn below(root: &Path) -> Roots {
        Roots {
            sysfs: Sysfs::at(&root.join("sys")),
            proc: root.join("proc"),
            dev: root.join("dev"),
            modules: root.join("lib/modules"),
            run: root.join("run"),
        }
    }

    /// A file below /proc; nothing if it cannot be read.
    pub(super) fn proc_text(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.proc.join(below)).ok()
    }
}
