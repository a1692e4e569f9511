//! Listens where QMP clients and those who read metrics connect, for the VMM.
//!
//! A Unix socket has mode 0600, and its file goes away with the VM. A socket that the operator opened must be
//! listening already. None blocks who accepts from it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use crate::config::MonitorConfig;

use super::socket_file::SocketFile;

/// Clients that wait to be accepted.
const BACKLOG: i32 = 16;

/// Why nobody can connect there.
#[derive(Debug, thiserror::Error)]
pub(super) enum MonitorError {
    #[error("-qmp unix:{path}: another process listens there; end it or give another path")]
    Busy { path: PathBuf },
    #[error("-qmp unix:{path}: cannot be made; give a path in a folder that this user can write")]
    Unix {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("-metrics unix:{path}: another process listens there; end it or give another path")]
    MetricsBusy { path: PathBuf },
    #[error(
        "-metrics unix:{path}: cannot be made; give a path in a folder that this user can write"
    )]
    Metrics {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("-qmp tcp:{address}: cannot be listened on; give another port")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "-chardev socket,fd={number}: is no listening socket; open it before the VM is started, and let it be inherited"
    )]
    Inherited {
        number: RawFd,
        #[source]
        source: io::Error,
    },
}

/// Listens everywhere. The socket files that this makes are added to `files`.
pub(super) fn listen(
    monitors: &[MonitorConfig],
    files: &mut Vec<SocketFile>,
) -> Result<Vec<OwnedFd>, MonitorError> {
    let mut listeners = Vec::new();
    for monitor in monitors {
        listeners.push(match monitor {
            MonitorConfig::Unix(path) => {
                let refuse = |source: io::Error| {
                    let path = path.clone();
                    if source.kind() == io::ErrorKind::AddrInUse {
                        MonitorError::Busy { path }
                    } else {
                        MonitorError::Unix { path, source }
                    }
                };
                let (listener, file) = unix(path).map_err(refuse)?;
                files.push(file);
                listener
            }
            MonitorConfig::Tcp(address) => tcp(address).map_err(|source| MonitorError::Tcp {
                address: *address,
                source,
            })?,
            MonitorConfig::Fd(number) => {
                inherited(*number).map_err(|source| MonitorError::Inherited {
                    number: *number,
                    source,
                })?
            }
        });
    }
    Ok(listeners)
}

/// Listens where metrics can be read. The socket's file is added to `files`.
pub(super) fn listen_for_metrics(
    path: &Path,
    files: &mut Vec<SocketFile>,
) -> Result<OwnedFd, MonitorError> {
    let refuse = |source: io::Error| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::AddrInUse {
            MonitorError::MetricsBusy { path }
        } else {
            MonitorError::Metrics { path, source }
        }
    };
    let (listener, file) = unix(path).map_err(refuse)?;
    files.push(file);
    Ok(listener)
}

fn unix(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let (listener, file) = SocketFile::listen_for(path, BACKLOG)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok((listener, file))
}

fn tcp(address: &SocketAddr) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    let socket = sandbox::sys::adopt_fd(number)?;
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Somebody else may accept from it too, and take the client that this process was woken for.
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn socket_is_private_takes_clients_and_goes_away() {
        let path = std::env::temp_dir().join(format!("bulkhead-qmp-{}", std::process::id()));
        let mut files = Vec::new();
        let listeners = listen(&[MonitorConfig::Unix(path.clone())], &mut files).unwrap();
        assert_eq!(listeners.len(), 1);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _clients = [(); 4].map(|()| UnixStream::connect(&path).unwrap());
        drop(files);
        assert!(!path.exists());
    }

    #[test]
    fn accepting_where_nobody_waits_blocks_on_no_kind_of_socket() {
        let path = std::env::temp_dir().join(format!("bulkhead-qmp-none-{}", std::process::id()));
        let opened = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::io::fcntl_setfd(&opened, rustix::io::FdFlags::empty()).unwrap();
        let monitors = [
            MonitorConfig::Unix(path),
            MonitorConfig::Tcp("127.0.0.1:0".parse().unwrap()),
            MonitorConfig::Fd(opened.into_raw_fd()),
        ];
        let mut files = Vec::new();
        for listener in listen(&monitors, &mut files).unwrap() {
            assert_eq!(
                rustix::net::accept(&listener).unwrap_err(),
                rustix::io::Errno::AGAIN
            );
        }
    }

    #[test]
    fn socket_of_another_process_is_left_alone() {
        let path = std::env::temp_dir().join(format!("bulkhead-qmp-busy-{}", std::process::id()));
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = listen(&[MonitorConfig::Unix(path.clone())], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, MonitorError::Busy { .. }), "{error}");
        drop(other);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn descriptor_that_is_no_listening_socket_is_refused() {
        let error = listen(&[MonitorConfig::Fd(999)], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("fd=999"), "{error}");
    }
}
