//! Which descriptors this process has, and what they are.

use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::MechanismError;

/// Every open descriptor with what /proc says it is, in the order of their numbers.
pub fn open_descriptors() -> Result<Vec<(RawFd, PathBuf)>, MechanismError> {
    let failed = MechanismError::at("list the descriptors in /proc/self/fd");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // The listing's own descriptor is gone again by the time its link is read.
        if let (Some(number), Ok(target)) = (number, fs::read_link(entry.path())) {
            found.push((number, target));
        }
    }
    found.sort();
    Ok(found)
}
