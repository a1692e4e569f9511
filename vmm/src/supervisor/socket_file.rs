//! A listening Unix socket, and its file, which goes away with it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1;

/// The file of a socket; removed on drop, unless somebody put another file in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens on `path` with mode 0600. A socket file that nobody listens on any more is replaced.
    pub(super) fn listen(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
        Self::listen_for(path, BACKLOG)
    }

    /// The same, with room for so many connections that wait.
    pub(super) fn listen_for(path: &Path, backlog: i32) -> io::Result<(OwnedFd, SocketFile)> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // The file takes the mode that the socket has when it is bound.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) if is_stale(path) => {
                std::fs::remove_file(path)?;
                rustix::net::bind(&socket, &address)?;
            }
            result => result?,
        }
        let metadata = std::fs::symlink_metadata(path)?;
        let file = SocketFile {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        rustix::net::listen(&socket, backlog)?;
        Ok((socket, file))
    }
}

/// Whether this is a socket whose owner is gone.
fn is_stale(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = || {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    is_socket && probe() == Err(Errno::CONNREFUSED)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode));
        if ours {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("bulkhead-socket-{}-{name}", std::process::id()))
    }

    #[test]
    fn socket_is_private_and_its_file_goes_away() {
        let path = path("private");
        let (_socket, file) = SocketFile::listen(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let path = path("stale");
        let (socket, file) = SocketFile::listen(&path).unwrap();
        assert_eq!(
            SocketFile::listen(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(socket);
        std::mem::forget(file);
        let (_socket, _file) = SocketFile::listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn file_that_took_the_place_of_the_socket_stays() {
        let path = path("replaced");
        let (_socket, file) = SocketFile::listen(&path).unwrap();
        std::fs::rename(&path, path.with_extension("moved")).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(path.with_extension("moved")).unwrap();
    }

    #[test]
    fn regular_file_is_never_replaced() {
        let path = path("regular");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            SocketFile::listen(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
    }
}
