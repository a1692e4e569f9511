//! A VM with a guest of a few instructions and a QMP socket.

use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Result, ensure};
use harness::bare_guest;
use harness::deadline::{PROCESS, eventually};
use harness::process::Process;
use harness::programs;
use harness::qmp::Qmp;
use harness::scratch::Scratch;

/// The VM; killed when dropped.
pub(crate) struct Machine {
    pub(crate) process: Process,
    pub(crate) socket: String,
    _scratch: Scratch,
}

impl Machine {
    /// Starts `program` with these arguments and `-qmp unix:`.
    pub(crate) fn start(program: &[u8], arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.file("qmp.sock");
        let qmp = format!("unix:{socket},server=on,wait=off");
        let arguments = [&["-qmp", &qmp], arguments].concat();
        Self::start_with(program, &arguments, scratch, socket)
    }

    /// The same with sockets of the test's own; `socket` is where [`Self::client`] connects.
    pub(crate) fn start_with(
        program: &[u8],
        arguments: &[&str],
        scratch: Scratch,
        socket: String,
    ) -> Result<Self> {
        let kernel = scratch.path().join("kernel");
        bare_guest::write(program, &kernel)?;
        let mut command = Command::new(programs::find(programs::VMM)?);
        command.args(["-m", "64M", "-serial", "stdio", "-kernel"]);
        command.arg(kernel).args(arguments);
        Ok(Self {
            process: Process::start("VMM", &mut command)?,
            socket,
            _scratch: scratch,
        })
    }

    /// A connection that the test speaks on itself; what it reads must come in time.
    pub(crate) fn connect(&self) -> Result<UnixStream> {
        let connect = || UnixStream::connect(&self.socket).ok();
        let stream = eventually("the QMP socket", PROCESS, connect)?;
        stream.set_read_timeout(Some(PROCESS))?;
        Ok(stream)
    }

    /// One more client.
    pub(crate) fn client(&self) -> Result<Qmp> {
        Qmp::connect(&self.socket)
    }

    /// `quit`; everything must end well.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.client()?.succeed(r#"{"execute":"quit"}"#)?;
        let status = self.process.wait(PROCESS)?;
        ensure!(
            status.success(),
            "{status}: {}",
            self.process.stderr().text()
        );
        Ok(())
    }
}
