//! The server's part: accepts one client, negotiates, answers.

use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::bytes::{self, ERROR, REPLY};
use super::{RawPeer, Received};
use crate::deadline::PROCESS;

/// A server that a test plays in a thread of its own.
#[derive(Debug)]
pub struct Played<T> {
    thread: JoinHandle<Result<T>>,
}

impl<T> Played<T> {
    /// What the script gave.
    pub fn result(self) -> Result<T> {
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the peer panicked"))?
    }
}

impl RawPeer {
    /// Listens on `socket`; the first client is handed to `script`.
    pub fn listen<T: Send + 'static>(
        socket: &str,
        script: impl FnOnce(&RawPeer) -> Result<T> + Send + 'static,
    ) -> Result<Played<T>> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket}"))?;
        let thread = std::thread::spawn(move || script(&first_client(&listener)?));
        Ok(Played { thread })
    }

    /// Takes VERSION and answers it with everything that there is.
    pub fn accept(&self) {
        let version = self.recv();
        assert_eq!(version.command, 1);
        let json = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        self.answer(&version, &bytes::version(0, 1, json));
    }

    /// Answers a request with success.
    pub fn answer(&self, request: &Received, body: &[u8]) {
        self.send(&bytes::message(request.id, request.command, REPLY, body));
    }

    /// Answers a request with an error, the header alone.
    pub fn refuse(&self, request: &Received, errno: u32) {
        let (id, command) = (request.id, request.command);
        self.send(&bytes::sized(id, command, 16, REPLY | ERROR, errno, &[]));
    }

    /// Answers a `REGION_READ` with zeroes, as often as one comes.
    pub fn serve_reads(&self) {
        while let Some(request) = self.try_recv() {
            if request.command == 9 {
                let count = bytes::u32_at(&request.body, 12);
                let mut body = request.body.clone();
                body.resize(16 + count as usize, 0);
                self.answer(&request, &body);
            } else {
                self.refuse(&request, 22);
            }
        }
    }
}

fn first_client(listener: &UnixListener) -> Result<RawPeer> {
    let timeout = Timespec::try_from(PROCESS)?;
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout))?;
    ensure!(ready > 0, "nobody connected within {PROCESS:?}");
    Ok(RawPeer::over(listener.accept()?.0))
}
