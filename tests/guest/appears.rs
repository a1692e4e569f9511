//! Waits for a device node, without a process or a look at it now and then: the guest is at rest meanwhile.

use std::mem::MaybeUninit;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Returns when there is a file at `path`.
pub(crate) fn run(path: &str) -> Result<()> {
    let path = Path::new(path);
    let folder = path.parent().context("a file in a folder")?;
    let changes = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&changes, folder, WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut changes = inotify::Reader::new(&changes, &mut buffer);
    while !path.exists() {
        changes.next()?;
    }
    Ok(())
}
