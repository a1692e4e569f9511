//! Our client, and the device server with its test device.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::Result;
use harness::device_server::DeviceServer;
use harness::scratch::Scratch;
use protocol::{Client, ClientConfig, RegionIndex};

/// A register that holds what is written to it (docs/test-device.md, SCRATCH).
const REGISTERS: RegionIndex = RegionIndex::BAR2;
const SCRATCH: u64 = 8;

pub(crate) struct Ours {
    client: Client,
    server: DeviceServer,
    _folder: Scratch,
}

impl Ours {
    /// With `relying`, deadlines of accesses are the event loop's business, which there is none of here.
    pub(crate) fn start(relying: bool) -> Result<Self> {
        let folder = Scratch::new()?;
        let socket = folder.file("ours");
        let server = DeviceServer::start(&["test", "--socket", &socket])?;
        let socket = OwnedFd::from(UnixStream::connect(socket)?);
        let client = Client::connect(socket, ClientConfig::standard())?;
        if relying {
            client.rely_on_service()?;
        }
        Ok(Self {
            client,
            server,
            _folder: folder,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn read(&self) -> Result<()> {
        let mut data = [0; 4];
        Ok(self.client.region_read(REGISTERS, SCRATCH, &mut data)?)
    }

    /// Posts writes; the read behind them is answered when all are done.
    pub(crate) fn post(&self, messages: usize) -> Result<()> {
        for number in 0..messages {
            let data = u32::try_from(number)?.to_le_bytes();
            self.client.region_write_posted(REGISTERS, SCRATCH, &data)?;
        }
        self.read()
    }
}
