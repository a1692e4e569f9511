//! The guest's initrd: the lab's, with a test's script and programs appended as one more "newc" cpio archive.
//!
//! Format: Linux Documentation/driver-api/early-userspace/buffer-format; the kernel unpacks concatenated archives in
//! order. Files only, all in the root folder.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const REGULAR_FILE: u32 = 0o100_755;

/// Writes `base` followed by an archive of `files` (name, content) to `output`.
pub fn extend(base: &Path, files: &[(String, Vec<u8>)], output: &Path) -> Result<()> {
    std::fs::copy(base, output)
        .with_context(|| format!("copy the guest's initrd {}", base.display()))?;
    let mut target = std::fs::OpenOptions::new().append(true).open(output)?;
    let mut archive = Vec::new();
    for (number, (name, content)) in (1_u32..).zip(files) {
        entry(&mut archive, name, number, REGULAR_FILE, content)?;
    }
    entry(&mut archive, "TRAILER!!!", 0, 0, b"")?;
    target.write_all(&archive)?;
    Ok(())
}

fn entry(archive: &mut Vec<u8>, name: &str, inode: u32, mode: u32, content: &[u8]) -> Result<()> {
    let size = u32::try_from(content.len())?;
    let name_size = u32::try_from(name.len())? + 1;
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        write!(archive, "{field:08x}")?;
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
    Ok(())
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
