//! The process that reads an image for a running VM: one file, copied into the memory file that it was given.
//!
//! It does nothing else and understands nothing of what it copies. Symbolic links are followed, as at the start of the VM: the
//! policy names a path, and who may change what stands there is the operator's choice.
//! Limit: as many bytes as the supervisor says.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::open;

/// Why an image is not lent.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be opened, or is no file.
    #[error(transparent)]
    Open(Box<dyn std::error::Error + Send + Sync>),
    /// It is larger than anything that this VM can boot.
    #[error(
        "image {path}: is larger than {limit_mib} MiB; give a smaller one, or the VM more memory with -m"
    )]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How large it may be, rounded down.
        limit_mib: u64,
    },
    /// The file system failed, or there is no memory.
    #[error("image {path}: copy it")]
    Copy {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// Copies the file at `path`, of at most `limit_bytes`, into `copy`.
pub fn copy_image(path: &Path, limit_bytes: u64, mut copy: &File) -> Result<(), CopyError> {
    let file = open::image("image", path, "Linux kernel or an initial RAM disk");
    let file = File::from(file.map_err(|error| CopyError::Open(Box::new(error)))?);
    let failed = |source| CopyError::Copy {
        path: path.to_owned(),
        source,
    };
    let too_large = || CopyError::TooLarge {
        path: path.to_owned(),
        limit_mib: limit_bytes >> 20,
    };
    // Before anything is copied, and again of what was: it may grow meanwhile.
    if file.metadata().map_err(failed)?.len() > limit_bytes {
        return Err(too_large());
    }
    let copied = io::copy(&mut file.take(limit_bytes.saturating_add(1)), &mut copy);
    if copied.map_err(failed)? > limit_bytes {
        return Err(too_large());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, MemfdFlags, Mode};

    use super::*;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("bulkhead-image-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn copied(path: &Path, limit_bytes: u64) -> Result<u64, String> {
        let copy = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        let copy = File::from(copy);
        copy_image(path, limit_bytes, &copy)
            .map(|()| copy.metadata().unwrap().len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn file_is_copied_whole_also_through_a_symbolic_link() {
        let folder = Folder::new("whole");
        let (file, link) = (folder.0.join("vmlinuz-6.1"), folder.0.join("vmlinuz"));
        std::fs::write(&file, [7; 5000]).unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert_eq!(copied(path, 5000), Ok(5000));
        }
    }

    #[test]
    fn what_is_no_file_with_something_in_it_is_refused_and_not_waited_for() {
        let folder = Folder::new("kinds");
        let (fifo, empty) = (folder.0.join("fifo"), folder.0.join("empty"));
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        std::fs::write(&empty, []).unwrap();
        for path in [&fifo, &empty, &folder.0, Path::new("/dev/zero")] {
            let reason = copied(path, 1 << 20).unwrap_err();
            let expected = format!("image {}: is no regular file or is empty", path.display());
            assert!(reason.starts_with(&expected), "{reason}");
        }
        let reason = copied(&folder.0.join("missing"), 1 << 20).unwrap_err();
        assert!(reason.contains("cannot be opened"), "{reason}");
    }

    #[test]
    fn file_above_the_limit_is_refused_before_it_is_copied() {
        let folder = Folder::new("large");
        let file = folder.0.join("initrd");
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let reason = copied(&file, 64 << 20).unwrap_err();
        assert!(reason.contains("is larger than 64 MiB"), "{reason}");
    }
}
