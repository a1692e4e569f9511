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
const RETRY: Timespec = Timespec {
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

/// Connects, waiting at most `deadline::CONNECT` for a server whose backlog is full.
pub(super) fn connect(id: &str, path: &Path) -> Result<OwnedFd, ConnectError> {
    connect_within(id, path, deadline::CONNECT)
}

fn connect_within(id: &str, path: &Path, patience: Duration) -> Result<OwnedFd, ConnectError> {
    let (id, socket) = (id.to_owned(), path.to_owned());
    socket_within(path, patience).map_err(|errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR => ConnectError::Nobody { id, socket },
        Errno::PROTOTYPE => ConnectError::NotAStream { id, socket },
        Errno::AGAIN => ConnectError::Busy { id, socket },
        Errno::ACCESS | Errno::PERM => ConnectError::Permission { id, socket },
        other => ConnectError::Socket {
            id,
            socket,
            source: other.into(),
        },
    })
}

/// A connection to any stream socket, within `deadline::CONNECT`.
pub(super) fn socket(path: &Path) -> Result<OwnedFd, Errno> {
    socket_within(path, deadline::CONNECT)
}

fn socket_within(path: &Path, patience: Duration) -> Result<OwnedFd, Errno> {
    let give_up = Instant::now() + patience;
    loop {
        match try_connect(path) {
            Err(Errno::AGAIN) if Instant::now() < give_up => {
                // A connect that waits cannot be given a deadline on a Unix socket, so it is tried again.
                let _ = rustix::event::poll(&mut [], Some(&RETRY));
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
        let start = Instant::now();
        let second = connect_within("net", &path.0, Duration::from_millis(100));
        assert!(matches!(second, Err(ConnectError::Busy { .. })));
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}
