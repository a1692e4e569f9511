//! A device server that was started before its device is known, and waits for the order that names it.
//!
//! It has a socket of the supervisor's and a ready pipe, and no device. Not here: whether there is to be one (`spare`).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use protocol::supervisor::{ControlSocket, Order, OrderFds};
use sandbox::prepare::{ChildProcess, Ending};

use super::nodes::Nodes;
use super::programs::ProgramFile;
use super::ready::{ReadyPipe, ReadyState};
use crate::one_line::one_line;

/// The process. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Waiting {
    process: ChildProcess,
    ready: ReadyPipe,
    orders: ControlSocket,
    program: ProgramFile,
}

impl Waiting {
    /// One that was just started. `program` is the file that was there right before.
    pub(super) fn new(
        process: ChildProcess,
        ready: ReadyPipe,
        orders: ControlSocket,
        program: ProgramFile,
    ) -> Waiting {
        Waiting {
            process,
            ready,
            orders,
            program,
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Readable once it has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }

    /// How it ended, if it has, and what it said then.
    pub(super) fn ended(&mut self) -> Option<(Ending, String)> {
        let ending = self.process.try_wait().ok().flatten()?;
        let reason = match self.ready.read() {
            ReadyState::Failed(reason) => reason,
            ReadyState::Waiting | ReadyState::Serving | ReadyState::Ready | ReadyState::Silent => {
                String::new()
            }
        };
        Some((ending, reason))
    }

    /// Itself, if it still waits, and runs the program that would be started now.
    pub(super) fn if_usable(mut self, program: &Path) -> Option<Waiting> {
        if let Some((ending, reason)) = self.ended() {
            tracing::debug!(%ending, reason, "The device server that waited has ended");
            return None;
        }
        if self.program != ProgramFile::at(program) {
            tracing::debug!("The device server that waited runs a program that was replaced");
            return None;
        }
        Some(self)
    }

    /// Tells it what to serve. `None`: it takes no order.
    pub(super) fn order(
        self,
        order: &Order,
        socket: BorrowedFd<'_>,
        nodes: &Nodes,
    ) -> Option<(ChildProcess, ReadyPipe)> {
        let iommufd = nodes.iommufd.as_ref();
        let fds = OrderFds {
            socket,
            group: (nodes.group.as_ref())
                .map(|(container, group)| (container.as_fd(), group.as_fd())),
            iommufd: iommufd.and_then(|(iommufd, devices)| {
                let device = devices.first()?;
                Some((iommufd.as_fd(), device.as_fd()))
            }),
        };
        if let Err(error) = order.send(&self.orders, &fds) {
            let error = one_line(&error);
            tracing::debug!(error, "The device server that waited takes no order");
            return None;
        }
        tracing::debug!(
            pid = self.pid(),
            "The device server that waited has its order"
        );
        Some((self.process, self.ready))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use protocol::supervisor::Ordered;
    use sandbox::prepare::Child;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn program(name: &str) -> PathBuf {
        let name = format!("bulkhead-waiting-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "old").unwrap();
        path
    }

    /// A script that waits in place of a device server, and that server's end of its socket.
    fn waiting(program: &Path, script: &str) -> (Waiting, ControlSocket) {
        let (ready, ready_writer) = ReadyPipe::new().unwrap();
        let (orders, server) = ControlSocket::pair().unwrap();
        let child = Child::new("/bin/sh", vec!["-c".into(), script.into()]);
        let process = child.fd(3, ready_writer).spawn().unwrap();
        let waiting = Waiting::new(process, ready, orders, ProgramFile::at(program));
        (waiting, server.into())
    }

    fn order() -> Order {
        Order {
            host: "0000:1a:00.3".parse().unwrap(),
            id: "net".to_owned(),
            bar_mmap: true,
            allow_no_reset: false,
            allow_noncoherent: false,
            early: true,
        }
    }

    const NO_NODES: Nodes = Nodes {
        group: None,
        iommufd: None,
    };

    #[test]
    fn server_whose_program_was_replaced_is_not_usable() {
        let program = program("replaced");
        let (waiting, _server) = waiting(&program, "sleep 60");
        let waiting = waiting.if_usable(&program).unwrap();
        let new = program.with_extension("new");
        std::fs::write(&new, "new").unwrap();
        std::fs::rename(&new, &program).unwrap();
        assert!(waiting.if_usable(&program).is_none());
        std::fs::remove_file(program).unwrap();
    }

    #[test]
    fn server_whose_program_was_removed_is_not_usable() {
        let program = program("removed");
        let (waiting, _server) = waiting(&program, "sleep 60");
        std::fs::remove_file(&program).unwrap();
        assert!(waiting.if_usable(&program).is_none());
    }

    #[test]
    fn server_that_has_ended_is_not_usable_and_said_why() {
        let program = program("ended");
        let (mut waiting, _server) =
            waiting(&program, "echo '{\"error\":\"no sandbox\"}' >&3; exit 1");
        waiting.process.wait(PATIENCE).unwrap();
        let ended = (Ending::Exited(1), "no sandbox".to_owned());
        assert_eq!(waiting.ended(), Some(ended));
        assert!(waiting.if_usable(&program).is_none());
        std::fs::remove_file(program).unwrap();
    }

    #[test]
    fn server_gets_its_order_with_the_socket() {
        let program = program("ordered");
        let (waiting, server) = waiting(&program, "sleep 60");
        let (socket, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        let pid = waiting.pid();
        let (process, _ready) = waiting.order(&order(), socket.as_fd(), &NO_NODES).unwrap();
        assert_eq!(process.pid(), pid);
        let Ordered::Device(found, fds) = Order::receive(&server).unwrap() else {
            panic!("an order expected");
        };
        assert_eq!(found, order());
        assert!(fds.group.is_none() && fds.iommufd.is_none());
        std::fs::remove_file(program).unwrap();
    }

    #[test]
    fn server_that_has_closed_its_socket_takes_no_order() {
        let program = program("closed");
        let (waiting, server) = waiting(&program, "sleep 60");
        drop(server);
        let (socket, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(waiting.order(&order(), socket.as_fd(), &NO_NODES).is_none());
        std::fs::remove_file(program).unwrap();
    }
}
