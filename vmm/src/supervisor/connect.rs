//! Connects to the vfio-user socket of a device server that somebody else started, and to other sockets within a deadline.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::deadline;

/// How often a full backlog is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(20);
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(
        "device {id}: nobody listens on {socket}: start `bulkhead-device-server vfio --host ADDRESS --socket {socket}` first"
    )]
    Nobody { id: String, socket: PathBuf },
    #[error("device {id}: {socket} is no stream socket: it does not belong to a vfio-user server")]
    NotAStream { id: String, socket: PathBuf },
    #[error(
        "device {id}: the server on {socket} takes no connection: it serves another client; end that one first"
    )]
    Busy { id: String, socket: PathBuf },
    #[error(
        "device {id}: no permission to connect to {socket}: run as the user that owns the socket"
    )]
    Permission { id: String, socket: PathBuf },
    #[error("device {id}: connect to {socket}")]
    Socket {
        id: String,
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Connects, waiting at most `deadline::CONNECT` for a server whose backlog is full. For the start of a VM, where nothing else
/// is to be done.
pub(super) fn connect(id: &str, path: &Path) -> Result<OwnedFd, ConnectError> {
    let mut attempt = Attempt::new(id, path, Instant::now() + deadline::CONNECT);
    loop {
        if let Some(outcome) = attempt.try_again(Instant::now()) {
            return outcome;
        }
        let _ = rustix::event::poll(&mut [], Some(&PAUSE));
    }
}

/// A connection that is tried until its server has room or the deadline passes. A connect that waits cannot be given a deadline on
/// a Unix socket, so it is tried again and again.
#[derive(Debug)]
pub(super) struct Attempt {
    id: String,
    path: PathBuf,
    give_up: Instant,
}

impl Attempt {
    pub(super) fn new(id: &str, path: &Path, give_up: Instant) -> Attempt {
        Attempt {
            id: id.to_owned(),
            path: path.to_owned(),
            give_up,
        }
    }

    /// The device that it is for.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// `None`: try again after [`RETRY`].
    pub(super) fn try_again(&mut self, now: Instant) -> Option<Result<OwnedFd, ConnectError>> {
        let errno = match try_connect(&self.path) {
            Ok(fd) => return Some(Ok(fd)),
            Err(Errno::AGAIN) if now < self.give_up => return None,
            Err(errno) => errno,
        };
        let (id, socket) = (self.id.clone(), self.path.clone());
        Some(Err(match errno {
            Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR => {
                ConnectError::Nobody { id, socket }
            }
            Errno::PROTOTYPE => ConnectError::NotAStream { id, socket },
            Errno::AGAIN => ConnectError::Busy { id, socket },
            Errno::ACCESS | Errno::PERM => ConnectError::Permission { id, socket },
            other => ConnectError::Socket {
                id,
                socket,
                source: other.into(),
            },
        }))
    }
}

/// A connection to any stream socket, within `deadline::CONNECT`.
pub(super) fn socket(path: &Path) -> Result<OwnedFd, Errno> {
    let give_up = Instant::now() + deadline::CONNECT;
    loop {
        match try_connect(path) {
            Err(Errno::AGAIN) if Instant::now() < give_up => {
                let _ = rustix::event::poll(&mut [], Some(&PAUSE));
            }
            ended => return ended,
        }
    }
}

fn try_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &address)?;
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags.difference(rustix::fs::OFlags::NONBLOCK))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    struct SocketPath(PathBuf);

    impl SocketPath {
        fn new(name: &str) -> SocketPath {
            SocketPath(
                std::env::temp_dir()
                    .join(format!("bulkhead-connect-{}-{name}", std::process::id())),
            )
        }
    }

    impl Drop for SocketPath {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn listening_server_is_connected_to() {
        let path = SocketPath::new("listening");
        let listener = UnixListener::bind(&path.0).unwrap();
        let fd = connect("net", &path.0).unwrap();
        assert!(
            !rustix::fs::fcntl_getfl(&fd)
                .unwrap()
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
        listener.accept().unwrap();
    }

    #[test]
    fn socket_that_nobody_listens_on_says_what_to_start() {
        let missing = SocketPath::new("missing");
        let stale = SocketPath::new("stale");
        drop(UnixListener::bind(&stale.0).unwrap());
        for path in [&missing, &stale] {
            let error = connect("net", &path.0).unwrap_err().to_string();
            assert!(
                error.starts_with("device net: nobody listens on /"),
                "{error}"
            );
            assert!(
                error.contains(&format!("--socket {}", path.0.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn datagram_socket_is_no_server() {
        let path = SocketPath::new("datagram");
        let _socket = UnixDatagram::bind(&path.0).unwrap();
        assert!(matches!(
            connect("net", &path.0),
            Err(ConnectError::NotAStream { .. })
        ));
    }

    #[test]
    fn full_backlog_is_an_error_after_the_deadline() {
        let path = SocketPath::new("full");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path.0).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect("net", &path.0).unwrap();
        let give_up = Instant::now() + Duration::from_millis(100);
        let mut second = Attempt::new("net", &path.0, give_up);
        assert!(second.try_again(Instant::now()).is_none());
        let end = second.try_again(give_up);
        assert!(matches!(end, Some(Err(ConnectError::Busy { .. }))));
    }
}
