//! The crate in its child process, and a device server of ours for it.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::PROCESS;
use harness::device_server::DeviceServer;
use harness::process::Process;
use protocol::{Client, ClientConfig};

/// How long a call may take that is known to hang; every other one has `PROCESS`.
pub(crate) const HANGS: Duration = Duration::from_secs(1);

/// Our server with the test device.
pub(crate) fn test_device(socket: &str) -> Result<DeviceServer> {
    DeviceServer::start(&["test", "--socket", socket])
}

/// The crate's Client: one method call per line.
#[derive(Debug)]
pub(crate) struct CrateClient {
    process: Process,
    calls: Cell<u32>,
}

impl CrateClient {
    pub(crate) fn connect(socket: &str) -> Result<Self> {
        let process = start("client", socket)?;
        process.stdout().wait_for_line("0 ok", PROCESS)?;
        let calls = Cell::new(0);
        Ok(Self { process, calls })
    }

    /// What the crate returned; an error of the crate is one here.
    pub(crate) fn call(&mut self, call: &str) -> Result<String> {
        self.call_within(call, PROCESS)
    }

    pub(crate) fn call_within(&mut self, call: &str, limit: Duration) -> Result<String> {
        self.process.write_line(call)?;
        self.calls.set(self.calls.get() + 1);
        let number = self.calls.get();
        let answer = self
            .process
            .stdout()
            .wait_for_line(&format!("{number} "), limit);
        let answer =
            answer.with_context(|| format!("{call}; stderr: {}", self.process.stderr().text()))?;
        let value = answer
            .strip_prefix("ok")
            .map(|value| value.trim().to_owned());
        value.with_context(|| format!("{call}: {answer}"))
    }
}

/// The crate's Server with the device of tests/crate_peer/server.rs.
#[derive(Debug)]
pub(crate) struct CrateServer {
    process: Process,
    socket: String,
}

impl CrateServer {
    pub(crate) fn start(socket: &str) -> Result<Self> {
        let process = start("server", socket)?;
        process.stdout().wait_for_line("listening", PROCESS)?;
        Ok(Self {
            process,
            socket: socket.to_owned(),
        })
    }

    /// Our client, connected to it.
    pub(crate) fn client(&self) -> Result<Client> {
        let socket = OwnedFd::from(UnixStream::connect(&self.socket)?);
        Ok(Client::connect(socket, ClientConfig::standard())?)
    }

    /// What the device was asked to do, without reads and writes, up to the first request of the kind `last`.
    pub(crate) fn asked_until(&self, last: &str) -> Result<Vec<String>> {
        self.process.stdout().wait_for_line(last, PROCESS)?;
        let text = self.process.stdout().text();
        Ok(text.lines().skip(1).map(str::to_owned).collect())
    }

    /// It ends well when its client has left.
    pub(crate) fn ends(mut self) -> Result<()> {
        let status = self.process.wait(PROCESS)?;
        ensure!(
            status.success(),
            "{status}: {}",
            self.process.stderr().text()
        );
        Ok(())
    }
}

fn start(role: &str, socket: &str) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-crate-peer"));
    Process::start("vfio_user crate", command.args([role, socket]))
}
