//! The other end of a vfio-user socket, played by a test: accepts one client within a deadline.

use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::deadline::PROCESS;

/// What a peer did with its client.
#[derive(Debug)]
pub struct Peer<T> {
    thread: JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Peer<T> {
    /// Listens on `socket`; the first client is handed to `serve`. Its reads end after the deadline.
    pub fn listen(
        socket: &str,
        serve: impl FnOnce(UnixStream) -> std::io::Result<T> + Send + 'static,
    ) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket}"))?;
        let thread = std::thread::spawn(move || {
            let client = accept(&listener)?;
            client.set_read_timeout(Some(PROCESS))?;
            Ok(serve(client)?)
        });
        Ok(Self { thread })
    }

    /// What `serve` gave.
    pub fn result(self) -> Result<T> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the peer panicked"))?
    }
}

fn accept(listener: &UnixListener) -> Result<UnixStream> {
    let timeout = Timespec {
        tv_sec: i64::try_from(PROCESS.as_secs())?,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout))?;
    ensure!(ready > 0, "nobody connected within {PROCESS:?}");
    Ok(listener.accept()?.0)
}
