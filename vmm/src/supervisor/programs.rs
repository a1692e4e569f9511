//! Where our own two programs are.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DEVICE_SERVER: &str = "bulkhead-device-server";
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The programs that the supervisor executes.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Stage 2: this very program.
    pub(super) vmm: PathBuf,
    /// Looked for beside this program, then in PATH; the error is told when a device needs it.
    pub(super) device_server: Result<PathBuf, ProgramMissing>,
}

/// There is no device server to execute.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{DEVICE_SERVER} is neither in {} nor in a folder of PATH: install it beside bulkhead-vmm", folder.display())]
pub(super) struct ProgramMissing {
    folder: PathBuf,
}

/// Which file a path stands for. A file that is executed keeps its number until it is not, so one that replaces it has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProgramFile(Option<(u64, u64)>);

impl ProgramFile {
    /// The file that is there now.
    pub(super) fn at(path: &Path) -> ProgramFile {
        let found = std::fs::metadata(path).ok();
        ProgramFile(found.map(|file| (file.dev(), file.ino())))
    }
}

impl Programs {
    /// As installed.
    pub(super) fn find() -> Programs {
        let own = std::fs::read_link(OWN_EXECUTABLE).unwrap_or_default();
        let folder = own.parent().unwrap_or(Path::new("/")).to_owned();
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.clone()).chain(std::env::split_paths(&search_path));
        let found = folders
            .map(|folder| folder.join(DEVICE_SERVER))
            .find(|path| path.is_file());
        // A program that was replaced by an update while it runs has no usable path: execute what runs.
        let vmm = if own.is_file() {
            own
        } else {
            PathBuf::from(OWN_EXECUTABLE)
        };
        Programs {
            vmm,
            device_server: found.ok_or(ProgramMissing { folder }),
        }
    }
}
