//! A vfio-user server for tests: an NVMe-like device whose answers a test can bend, and which remembers what it was asked.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::messages::region_info::RegionInfoReply;
use protocol::server::{Connection, Event, Request, ServerConfig};
use protocol::{
    Command, DeviceInfo, Errno, IrqAction, IrqData, IrqIndex, IrqInfo, IrqInfoFlags, ReceivedFd,
    RegionFlags, RegionIndex, Reply, SetIrqs, SparseArea,
};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// BAR 0 of the device: page 0 can be mapped, the MSI-X table is at 0x2000, the pending bits at 0x3000.
pub(super) const BAR_BYTES: u64 = 0x4000;
pub(super) const ROM_BYTES: u64 = 0x1_0000;
pub(super) const VECTORS: u32 = 65;
/// Offset of the MSI-X capability.
pub(super) const MSIX: u16 = 0x40;
/// Offset of PCI Express's device control, whose upper byte starts a function-level reset.
pub(super) const DEVCTL: u16 = 0x68;

/// What the device was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    DmaMap {
        start: u64,
        len: u64,
    },
    Config {
        offset: u64,
        data: Vec<u8>,
    },
    Bar {
        offset: u64,
        data: Vec<u8>,
    },
    Irqs {
        index: IrqIndex,
        action: IrqAction,
        start: u32,
        count: u32,
        eventfds: usize,
    },
    Reset,
    Closed,
}

/// How the device answers.
pub(super) struct FakeDevice {
    pub(super) copy: Vec<u8>,
    pub(super) info: DeviceInfo,
    pub(super) areas: Vec<SparseArea>,
    pub(super) msix_flags: IrqInfoFlags,
    pub(super) refuses_dma_map: bool,
    pub(super) refuses_dma_unmap: bool,
    /// Whatever is asked about ERR and REQ.
    pub(super) refuses_notices: bool,
    pub(super) config: ServerConfig,
    /// Resets are not answered before a word comes.
    reset_gate: Option<Receiver<()>>,
}

impl FakeDevice {
    pub(super) fn new() -> FakeDevice {
        let mut copy = vec![0; 0x1000];
        copy[0..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        copy[0x06] = 0x10;
        copy[0x10] = 0x04;
        copy[0x34] = 0x40;
        copy[0x3d] = 1;
        copy[0x40..0x4c].copy_from_slice(&[0x11, 0x60, 64, 0, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
        copy[0x60..0x68].copy_from_slice(&[0x10, 0, 2, 0, 0, 0, 0, 0x10]);
        FakeDevice {
            copy,
            info: DeviceInfo {
                reset: true,
                pci: true,
                num_regions: 9,
                num_irqs: 5,
            },
            areas: vec![SparseArea {
                offset: 0,
                size: BAR_BYTES,
            }],
            msix_flags: IrqInfoFlags::EVENTFD,
            refuses_dma_map: false,
            refuses_dma_unmap: false,
            refuses_notices: false,
            config: ServerConfig::standard(),
            reset_gate: None,
        }
    }

    /// From now on each reset lasts until the sender says a word, or is gone.
    pub(super) fn hold_resets(&mut self) -> Sender<()> {
        let (word, gate) = channel();
        self.reset_gate = Some(gate);
        word
    }

    /// Serves the other end of the socket that is returned.
    pub(super) fn start(self) -> (OwnedFd, Running) {
        let (client, server) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || self.serve(server, &shared));
        (
            client,
            Running {
                state,
                thread: Some(thread),
            },
        )
    }

    fn serve(&self, socket: OwnedFd, state: &Mutex<State>) {
        let bar = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&bar, BAR_BYTES).unwrap();
        let mut connection = Connection::new(socket, self.config).unwrap();
        loop {
            let (token, command) = match connection.next_event() {
                Event::Request(Request { token, command }) => (token, command),
                Event::Refused(refusal) => panic!("a request made no sense: {refusal:?}"),
                Event::Closed(_) => break,
            };
            if let Some(gate) = self.reset_gate.as_ref().filter(|_| resets(&command)) {
                let _word = gate.recv();
            }
            let mut data = Vec::new();
            let mut state = state.lock().unwrap();
            if state.hang_up {
                break;
            }
            let reply = self.answer(command, &mut state, &bar, &mut data);
            drop(state);
            if connection.reply(token, reply).is_err() {
                break;
            }
        }
        let mut state = state.lock().unwrap();
        state.seen.push(Seen::Closed);
        state.eventfds.clear();
    }

    fn answer<'a>(
        &'a self,
        command: Command<'_>,
        state: &mut State,
        bar: &'a OwnedFd,
        data: &'a mut Vec<u8>,
    ) -> Reply<'a> {
        match command {
            Command::DeviceInfo => Reply::DeviceInfo(self.info),
            Command::RegionInfo(request) => self.region(request.index, request.argsz, bar),
            Command::IrqInfo(index) if self.refuses_notices && index >= IrqIndex::ERR => {
                Reply::Error(Errno::INVAL)
            }
            Command::IrqInfo(index) => Reply::IrqInfo(self.irq(index)),
            Command::SetIrqs(request) => state.set_irqs(request),
            Command::DmaMap(map) => {
                state.seen.push(Seen::DmaMap {
                    start: map.range.start().0,
                    len: map.range.len(),
                });
                if self.refuses_dma_map {
                    Reply::Error(Errno::NOSPC)
                } else {
                    Reply::Done
                }
            }
            Command::DmaUnmap(_) if self.refuses_dma_unmap => Reply::Error(Errno::IO),
            Command::DmaUnmap(unmap) => Reply::DmaUnmap(unmap),
            Command::RegionRead(access) => {
                data.resize(usize::try_from(access.count).unwrap(), 0xd0);
                if access.region == RegionIndex::CONFIG {
                    let start = usize::try_from(access.offset).unwrap();
                    let len = data.len();
                    data.copy_from_slice(&self.copy[start..start + len]);
                }
                Reply::RegionRead {
                    region: access.region,
                    offset: access.offset,
                    data,
                }
            }
            Command::RegionWrite(write) => {
                let (offset, data) = (write.offset, write.data.to_vec());
                let config = write.region == RegionIndex::CONFIG;
                state.seen.push(if config {
                    Seen::Config { offset, data }
                } else {
                    Seen::Bar { offset, data }
                });
                let count = u32::try_from(write.data.len()).unwrap();
                Reply::RegionWrite(protocol::messages::region::RegionAccess {
                    region: write.region,
                    offset: write.offset,
                    count,
                })
            }
            Command::DeviceReset => {
                state.seen.push(Seen::Reset);
                Reply::Done
            }
            Command::Version(_)
            | Command::RegionIoFds(_)
            | Command::RegionWriteMulti(_)
            | Command::DeviceFeature(_)
            | Command::MigDataRead(_)
            | Command::MigDataWrite(_) => Reply::Error(Errno::NOSYS),
        }
    }

    fn region<'a>(&'a self, index: RegionIndex, argsz: u32, bar: &'a OwnedFd) -> Reply<'a> {
        let none = RegionFlags::READ | RegionFlags::WRITE;
        let plain = |size| RegionInfoReply {
            index,
            flags: none,
            size,
            offset: 0,
            areas: &[],
        };
        let info = match index {
            RegionIndex::BAR0 => {
                let flags = none | RegionFlags::MMAP;
                RegionInfoReply {
                    flags,
                    areas: &self.areas,
                    ..plain(BAR_BYTES)
                }
            }
            RegionIndex::ROM => plain(ROM_BYTES),
            RegionIndex::CONFIG => plain(self.copy.len() as u64),
            _ => plain(0),
        };
        let fd = (index == RegionIndex::BAR0).then(|| bar.as_fd());
        Reply::RegionInfo { info, argsz, fd }
    }

    fn irq(&self, index: IrqIndex) -> IrqInfo {
        let pin = IrqInfoFlags::EVENTFD | IrqInfoFlags::MASKABLE | IrqInfoFlags::AUTOMASKED;
        match index {
            IrqIndex::INTX => IrqInfo {
                index,
                flags: pin,
                count: 1,
            },
            IrqIndex::MSIX => IrqInfo {
                index,
                flags: self.msix_flags,
                count: VECTORS,
            },
            _ => IrqInfo {
                index,
                flags: IrqInfoFlags::EVENTFD,
                count: 0,
            },
        }
    }
}

fn resets(command: &Command<'_>) -> bool {
    let starts_one = |region, offset| region == RegionIndex::CONFIG && offset == u64::from(DEVCTL);
    matches!(command, Command::DeviceReset)
        || matches!(command, Command::RegionWrite(write) if starts_one(write.region, write.offset))
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    eventfds: HashMap<(IrqIndex, u32), ReceivedFd>,
    hang_up: bool,
}

impl State {
    fn set_irqs(&mut self, request: SetIrqs) -> Reply<'static> {
        let SetIrqs {
            index,
            start,
            count,
            action,
            data,
        } = request;
        let fds = match data {
            IrqData::Eventfd(fds) => fds,
            IrqData::None | IrqData::Bool(_) => Vec::new(),
        };
        self.seen.push(Seen::Irqs {
            index,
            action,
            start,
            count,
            eventfds: fds.len(),
        });
        if count == 0 {
            self.eventfds.retain(|(of, _), _| *of != index);
        }
        if action == IrqAction::Trigger {
            self.eventfds
                .extend((start..).zip(fds).map(|(vector, fd)| ((index, vector), fd)));
        }
        Reply::Done
    }
}

/// The device while it runs.
pub(super) struct Running {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// What it was asked since the last call.
    pub(super) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }

    /// Fires an interrupt, if the vector is bound.
    pub(super) fn fire(&self, index: IrqIndex, vector: u32) -> bool {
        let state = self.lock();
        let eventfd = state.eventfds.get(&(index, vector));
        eventfd.is_some_and(|fd| rustix::io::write(fd, &1u64.to_ne_bytes()).is_ok())
    }

    /// Makes the next write to a vector's eventfd wait for ever, whoever makes it: the VMM has the same open file.
    pub(super) fn fill(&self, index: IrqIndex, vector: u32) {
        let state = self.lock();
        let eventfd = state.eventfds.get(&(index, vector)).unwrap();
        rustix::io::write(eventfd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let flags = rustix::fs::fcntl_getfl(eventfd).unwrap();
        let blocking = flags.difference(rustix::fs::OFlags::NONBLOCK);
        rustix::fs::fcntl_setfl(eventfd, blocking).unwrap();
    }

    /// The next request ends the connection.
    pub(super) fn hang_up(&self) {
        self.lock().hang_up = true;
    }

    /// Waits until the client has gone.
    pub(super) fn wait_until_closed(mut self) -> Vec<Seen> {
        let until = Instant::now() + Duration::from_secs(5);
        let thread = self.thread.take().unwrap();
        while !thread.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(
            thread.is_finished(),
            "the client still holds the connection"
        );
        thread.join().unwrap();
        self.take_seen()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
