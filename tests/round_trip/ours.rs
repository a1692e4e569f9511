//! Our client, and the device server with its test device.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Result;
use harness::device_server::DeviceServer;
use harness::scratch::Scratch;
use protocol::{Client, ClientConfig, DmaHandler, Errno, Iova, RegionIndex};
use rustix::event::{PollFd, PollFlags, poll};

/// A register that holds what is written to it (docs/test-device.md, SCRATCH).
const REGISTERS: RegionIndex = RegionIndex::BAR2;
const SCRATCH: u64 = 8;

pub(crate) struct Ours {
    client: Arc<Client>,
    server: DeviceServer,
    _folder: Scratch,
}

/// How a client sees that an access is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadlines {
    /// A thread looks for all, as in the VMM, which offers its memory, too.
    Watched,
    /// The kernel's timer in each read.
    Timers,
}

/// Guest memory; the test device is not told to touch any.
struct NoMemory;

impl DmaHandler for NoMemory {
    fn read(&self, _address: Iova, _data: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }

    fn write(&self, _address: Iova, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }
}

impl Ours {
    /// A server with these options, and a client of it.
    pub(crate) fn start(deadlines: Deadlines, options: &[&str]) -> Result<Self> {
        let folder = Scratch::new()?;
        let socket = folder.file("ours");
        let server = DeviceServer::start(&[&["test", "--socket", &socket], options].concat())?;
        let socket = OwnedFd::from(UnixStream::connect(socket)?);
        let mut config = ClientConfig::standard();
        if deadlines == Deadlines::Watched {
            config.dma_handler = Some(Arc::new(NoMemory));
        }
        let client = Arc::new(Client::connect(socket, config)?);
        if deadlines == Deadlines::Watched {
            client.rely_on_service()?;
            let watched = Arc::clone(&client);
            std::thread::spawn(move || watch(&watched));
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

    pub(crate) fn client(&self) -> &Client {
        &self.client
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

/// Until the connection ends.
fn watch(client: &Client) {
    while client.service().is_ok() {
        let mut fds = [PollFd::from_borrowed_fd(client.poll_fd(), PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            return;
        }
    }
}
