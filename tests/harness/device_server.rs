//! A device server as a service of its own, on a socket path.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::deadline::PROCESS;
use crate::process::Process;
use crate::programs;

/// A running `bulkhead-device-server`, killed when dropped.
#[derive(Debug)]
pub struct DeviceServer {
    process: Process,
}

impl DeviceServer {
    /// Starts it with `arguments` and waits until it is ready for clients.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        // It announces itself on descriptor 3, which the shell makes our pipe, and closes that.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" --ready-fd 3 3>&1 >&2", "sh"]);
        command
            .arg(programs::find(programs::DEVICE_SERVER)?)
            .args(arguments);
        let process = Process::start("device server", &mut command)?;
        let ready = process.stdout().wait_for_end(PROCESS);
        let ready =
            ready.with_context(|| format!("the server's stderr:\n{}", process.stderr().text()))?;
        ensure!(
            ready.contains("\"ready\""),
            "the device server refused: {ready}"
        );
        Ok(Self { process })
    }

    /// A server of one VFIO device.
    pub fn vfio(host: &str, socket: &str) -> Result<Self> {
        Self::vfio_with(host, socket, &[])
    }

    /// The same with more options of that device.
    pub fn vfio_with(host: &str, socket: &str, options: &[&str]) -> Result<Self> {
        let arguments = ["vfio", "--host", host, "--socket", socket];
        let server = Self::start(&[&arguments, options].concat())?;
        let kind = Path::new(socket)
            .metadata()
            .with_context(|| format!("the server's socket {socket}"))?
            .file_type();
        ensure!(kind.is_socket(), "{socket} is no socket");
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.stderr().text()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks it to end, as systemd would.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(PROCESS)
    }
}
