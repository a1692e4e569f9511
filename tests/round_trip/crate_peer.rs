//! The `vfio_user` crate's Client, and its Server in bulkhead-crate-peer.

use std::process::Command;

use anyhow::Result;
use harness::deadline::PROCESS;
use harness::process::Process;
use harness::programs;
use harness::scratch::Scratch;
use vfio_user::Client;

const REGISTERS: u32 = 2;

pub(crate) struct Crate {
    client: Client,
    server: Process,
    _folder: Scratch,
}

impl Crate {
    pub(crate) fn start() -> Result<Self> {
        let folder = Scratch::new()?;
        let socket = folder.file("crate");
        let mut command = Command::new(programs::find(programs::CRATE_PEER)?);
        let server = Process::start("vfio_user crate", command.args(["server", &socket]))?;
        server.stdout().wait_for_line("listening", PROCESS)?;
        Ok(Self {
            client: Client::new(socket.as_ref())?,
            server,
            _folder: folder,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn read(&mut self) -> Result<()> {
        Ok(self.client.region_read(REGISTERS, 8, &mut [0; 4])?)
    }
}
