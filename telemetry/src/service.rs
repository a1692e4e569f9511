//! What a service manager hands over, and what it is told.
//!
//! systemd: sd_listen_fds(3), sd_notify(3). The socket for notices is connected before a sandbox is entered, where its path does not
//! exist. Children get neither variable: they start with an empty environment.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::SendFlags;

/// The first descriptor that is passed.
pub const FIRST_SOCKET: i32 = 3;

/// How many sockets were passed to this process, from `FIRST_SOCKET` on.
pub fn passed_sockets() -> i32 {
    let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
    passed(number("LISTEN_PID"), number("LISTEN_FDS"))
}

fn passed(pid: Option<i32>, count: Option<i32>) -> i32 {
    // They may have been meant for a process that this one is a child of.
    let ours = pid.is_some_and(|pid| i64::from(pid) == i64::from(std::process::id()));
    count.filter(|count| ours && *count > 0).unwrap_or(0)
}

/// Tells the service manager how far this process is, if there is one that wants to know.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<OwnedFd>,
}

impl Notifier {
    /// Connects to the service manager's socket.
    pub fn connect() -> io::Result<Notifier> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(Notifier { socket: None });
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Notifier {
            socket: Some(socket.into()),
        })
    }

    /// Whether this process is a service that is waited for.
    pub fn is_service(&self) -> bool {
        self.socket.is_some()
    }

    /// It serves from now on.
    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// It ends.
    pub fn stopping(&self) {
        self.send(b"STOPPING=1");
    }

    fn send(&self, text: &[u8]) {
        if let Some(socket) = &self.socket {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(errno) = rustix::net::send(socket, text, flags) {
                tracing::warn!(%errno, "The service manager cannot be told how far this is");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_another_process_are_not_ours() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(passed(Some(own), Some(2)), 2);
        assert_eq!(passed(Some(own + 1), Some(2)), 0);
        assert_eq!(passed(Some(own), Some(-1)), 0);
        assert_eq!((passed(None, Some(1)), passed(Some(own), None)), (0, 0));
    }

    #[test]
    fn manager_is_told_in_its_own_words() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let notifier = Notifier {
            socket: Some(ours.into()),
        };
        notifier.ready();
        notifier.stopping();
        let mut text = [0; 32];
        for expected in ["READY=1", "STOPPING=1"] {
            let len = theirs.recv(&mut text).unwrap();
            assert_eq!(&text[..len], expected.as_bytes());
        }
    }
}
