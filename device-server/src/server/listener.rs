//! The socket that clients connect to.
//!
//! A path is bound only if nobody listens on it: a live socket is never unlinked, a stale one is replaced. Servers that
//! start at the same time on the same path take turns by a lock on the directory. The socket file has mode 0600
//! from its first moment and is removed on drop, unless something else has taken its place meanwhile.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::Errno;
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Clients that may wait while one is served. More are refused by the kernel (EAGAIN), which costs this process
/// nothing.
const BACKLOG: i32 = 8;

/// How long to wait for another server that is binding in the same directory.
const LOCK_DEADLINE: Duration = Duration::from_secs(1);

/// Pause between two attempts to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

/// Why a socket path could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something that is no socket is there.
    #[error("{path} exists and is not a socket: remove it or choose another path")]
    NotASocket {
        /// The path of the socket.
        path: PathBuf,
    },
    /// A server listens there.
    #[error("another server listens on {path}: stop it or choose another path")]
    InUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// Another server holds the directory.
    #[error("another server is binding a socket in {directory}: try again")]
    Locked {
        /// The directory of the socket.
        directory: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("the socket path {path} is too long for a Unix socket (at most 107 bytes)")]
    TooLong {
        /// The path of the socket.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{step} for the socket {path}")]
    Os {
        /// What was tried.
        step: &'static str,
        /// The path of the socket.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Binds `path` and listens on it. The file is there until the second value is dropped.
    pub fn bind(path: &Path) -> Result<(Listener, SocketFile), ListenError> {
        let address = SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong {
            path: path.to_path_buf(),
        })?;
        let _lock = lock_directory(path)?;
        remove_if_stale(path, &address)?;
        let socket = new_socket().map_err(|errno| os(path, "create the socket", errno))?;
        // The mode that bind gives the file is that of the socket inode, less the umask: set before, so that no
        // moment exists in which others may connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| os(path, "set the mode", errno))?;
        rustix::net::bind(&socket, &address).map_err(|errno| os(path, "bind", errno))?;
        let file = SocketFile::new(path).map_err(|source| ListenError::Os {
            step: "look at the new file",
            path: path.to_path_buf(),
            source,
        })?;
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| os(path, "listen", errno))?;
        Ok((Listener { socket }, file))
    }

    /// Uses a socket that somebody else bound and listens on.
    pub fn from_listening(socket: OwnedFd) -> io::Result<Listener> {
        // A client may leave between poll and accept, which must not block then.
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Listener { socket })
    }

    /// Takes the next client from the backlog. Call when the socket is readable; `None` if the client left again.
    pub fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(stream) => Ok(Some(stream)),
            Err(Errno::CONNABORTED | Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The file of a bound socket. Removed on drop, through the descriptor of its folder: the path may mean nothing then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let folder = OwnedFd::from(fs::File::open(folder_of(path))?);
        let name = path.file_name().unwrap_or_default().to_owned();
        let status = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(SocketFile {
            path: path.to_path_buf(),
            folder,
            name,
            device: status.st_dev,
            inode: status.st_ino,
        })
    }

    /// The folder that the file is in.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let status = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let ours =
            status.is_ok_and(|status| status.st_dev == self.device && status.st_ino == self.inode);
        if !ours {
            return;
        }
        if let Err(errno) = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            let error = io::Error::from(errno);
            tracing::warn!(path = %self.path.display(), %error, "Remove the socket file");
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Neither accept nor the probe of a stale socket may block.
fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Holds off other servers while the path is judged and bound. Released when the descriptor is dropped.
fn lock_directory(path: &Path) -> Result<OwnedFd, ListenError> {
    let directory = folder_of(path);
    let file = fs::File::open(directory).map_err(|source| ListenError::Os {
        step: "open the directory",
        path: path.to_path_buf(),
        source,
    })?;
    let give_up = Instant::now().checked_add(LOCK_DEADLINE);
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(OwnedFd::from(file)),
            Err(Errno::AGAIN) if give_up.is_some_and(|deadline| Instant::now() < deadline) => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(Errno::AGAIN) => {
                return Err(ListenError::Locked {
                    directory: directory.into(),
                });
            }
            Err(errno) => return Err(os(path, "lock the directory", errno)),
        }
    }
}

/// Makes room for a new socket, if what is there is a socket on which nobody listens.
fn remove_if_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ListenError::Os {
                step: "look at the path",
                path: path.to_path_buf(),
                source,
            });
        }
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_path_buf(),
        });
    }
    let probe = new_socket().map_err(|errno| os(path, "create a socket to probe", errno))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {}
        // Connected, or its backlog is full: somebody listens.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => {
            return Err(ListenError::InUse {
                path: path.to_path_buf(),
            });
        }
        Err(errno) => return Err(os(path, "probe for a listener", errno)),
    }
    fs::remove_file(path).map_err(|source| ListenError::Os {
        step: "remove the stale file",
        path: path.to_path_buf(),
        source,
    })
}

fn os(path: &Path, step: &'static str, errno: Errno) -> ListenError {
    ListenError::Os {
        step,
        path: path.to_path_buf(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests;
