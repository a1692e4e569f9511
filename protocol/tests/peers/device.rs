//! A small device behind `server::Connection`, for tests of the protocol alone.
//!
//! BAR0 is 4 KiB of memory. A write of 4 bytes to `DMA_DOORBELL` makes it read that many bytes at `DMA_SOURCE` in
//! client memory by messages and write them back one page further. It keeps what it was told in a `Log`.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

use protocol::messages::dma::DmaUnmap;
use protocol::messages::region::RegionAccess;
use protocol::messages::region_info::RegionInfoReply;
use protocol::server::{CloseReason, Connection, Event, Request, RequestToken, ServerConfig};
use protocol::{
    Command, DeviceInfo, Errno, Iova, IrqData, IrqInfo, IrqInfoFlags, Refusal, RegionFlags,
    RegionIndex, Reply, SparseArea,
};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

pub const DMA_DOORBELL: u64 = 0xf00;
pub const DMA_SOURCE: u64 = 0x10000;
pub const BAR_BYTES: u64 = 4096;

/// What happened on a connection.
#[derive(Debug, Default)]
pub struct Log {
    pub refusals: Vec<Refusal>,
    pub maps: usize,
    pub set_irqs: Vec<(u32, u32, u32, usize)>,
    pub resets: usize,
    pub closed: Option<CloseReason>,
}

/// Serves a socket in a thread of its own until the connection ends.
pub fn serve(socket: OwnedFd, config: ServerConfig) -> JoinHandle<Log> {
    std::thread::spawn(move || {
        let mut device = Device {
            connection: Connection::new(socket, config).unwrap(),
            bar: vec![0; BAR_BYTES as usize],
            file: memfd(2 * BAR_BYTES),
            log: Log::default(),
        };
        device.run();
        device.log
    })
}

/// A file of `bytes` zeroes.
pub fn memfd(bytes: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fd
}

struct Device {
    connection: Connection,
    bar: Vec<u8>,
    file: OwnedFd,
    log: Log,
}

/// What to do once the request no longer borrows the connection.
enum Work {
    Info,
    RegionInfo(RegionIndex, u32),
    Irq(u32),
    Read(RegionAccess),
    Write(RegionAccess, Vec<u8>),
    Multi(Vec<(u64, Vec<u8>)>),
    Unmap(DmaUnmap),
    Done,
    Fail(Errno),
}

impl Device {
    fn run(&mut self) {
        loop {
            let (token, work) = match self.connection.next_event() {
                Event::Request(Request { token, command }) => {
                    (token, understand(command, &mut self.log))
                }
                Event::Refused(refusal) => {
                    self.log.refusals.push(refusal);
                    continue;
                }
                Event::Closed(reason) => {
                    self.log.closed = Some(reason);
                    return;
                }
            };
            self.work(token, work);
        }
    }

    fn work(&mut self, token: RequestToken, work: Work) {
        let info = DeviceInfo {
            reset: true,
            pci: true,
            num_regions: 9,
            num_irqs: 5,
        };
        let irq = |index| IrqInfo {
            index: protocol::IrqIndex(index),
            flags: IrqInfoFlags::EVENTFD,
            count: if index == 2 { 40 } else { 1 },
        };
        let result = match work {
            Work::Info => self.connection.reply(token, Reply::DeviceInfo(info)),
            Work::Irq(index) => self.connection.reply(token, Reply::IrqInfo(irq(index))),
            Work::RegionInfo(index, argsz) => self.region_info(token, index, argsz),
            Work::Unmap(unmap) => self.connection.reply(token, Reply::DmaUnmap(unmap)),
            Work::Done => self.connection.reply(token, Reply::Done),
            Work::Fail(errno) => self.connection.reply(token, Reply::Error(errno)),
            Work::Read(access) => self.read(token, access),
            Work::Write(access, data) => self.write(token, access, &data),
            Work::Multi(writes) => {
                for (offset, data) in &writes {
                    self.bar[*offset as usize..][..data.len()].copy_from_slice(data);
                }
                let done = Reply::RegionWriteMulti(writes.len() as u64);
                self.connection.reply(token, done)
            }
        };
        // The loop sees the reason.
        let _ended = result;
    }

    fn region_info(
        &mut self,
        token: RequestToken,
        index: RegionIndex,
        argsz: u32,
    ) -> Result<(), CloseReason> {
        let areas = [SparseArea {
            offset: 0,
            size: BAR_BYTES,
        }];
        let rw = RegionFlags::READ | RegionFlags::WRITE;
        let (flags, size, areas, fd): (_, _, &[SparseArea], _) = match index {
            RegionIndex::BAR0 => (
                rw | RegionFlags::MMAP,
                BAR_BYTES,
                &areas,
                Some(self.file.as_fd()),
            ),
            RegionIndex::CONFIG => (rw, 4096, &[], None),
            _ => (RegionFlags::empty(), 0, &[], None),
        };
        let info = RegionInfoReply {
            index,
            flags,
            size,
            offset: 0,
            areas,
        };
        self.connection
            .reply(token, Reply::RegionInfo { info, argsz, fd })
    }

    fn read(&mut self, token: RequestToken, access: RegionAccess) -> Result<(), CloseReason> {
        let end = access.offset.saturating_add(u64::from(access.count));
        if end > BAR_BYTES || access.region != RegionIndex::BAR0 {
            return self.connection.reply(token, Reply::Error(Errno::INVAL));
        }
        let reply = Reply::RegionRead {
            region: access.region,
            offset: access.offset,
            data: &self.bar[access.offset as usize..end as usize],
        };
        self.connection.reply(token, reply)
    }

    fn write(
        &mut self,
        token: RequestToken,
        access: RegionAccess,
        data: &[u8],
    ) -> Result<(), CloseReason> {
        let end = access.offset.saturating_add(u64::from(access.count));
        if end > BAR_BYTES || access.region != RegionIndex::BAR0 {
            return self.connection.reply(token, Reply::Error(Errno::INVAL));
        }
        if access.offset == DMA_DOORBELL {
            let bytes = u32::from_ne_bytes(data.try_into().unwrap());
            let mut copy = vec![0; bytes as usize];
            let moved = self
                .connection
                .dma_read(Iova(DMA_SOURCE), &mut copy)
                .and_then(|()| self.connection.dma_write(Iova(DMA_SOURCE + 0x1000), &copy));
            if let Err(protocol::server::DmaError::Refused(errno)) = moved {
                return self.connection.reply(token, Reply::Error(errno));
            }
        } else {
            self.bar[access.offset as usize..end as usize].copy_from_slice(data);
        }
        self.connection.reply(token, Reply::RegionWrite(access))
    }
}

fn understand(command: Command<'_>, log: &mut Log) -> Work {
    match command {
        Command::DeviceInfo => Work::Info,
        Command::RegionInfo(request) => Work::RegionInfo(request.index, request.argsz),
        Command::IrqInfo(index) => Work::Irq(index.0),
        Command::RegionRead(access) => Work::Read(access),
        Command::RegionWrite(write) => Work::Write(
            RegionAccess {
                region: write.region,
                offset: write.offset,
                count: write.data.len() as u32,
            },
            write.data.to_vec(),
        ),
        Command::RegionWriteMulti(multi) => Work::Multi(
            multi
                .entries()
                .map(|entry| (entry.offset, entry.data.to_vec()))
                .collect(),
        ),
        Command::DmaUnmap(unmap) => Work::Unmap(unmap),
        Command::DmaMap(_) => {
            log.maps += 1;
            Work::Done
        }
        Command::SetIrqs(request) => {
            let fds = match &request.data {
                IrqData::Eventfd(fds) => fds.len(),
                IrqData::None | IrqData::Bool(_) => 0,
            };
            log.set_irqs
                .push((request.index.0, request.start, request.count, fds));
            Work::Done
        }
        Command::DeviceReset => {
            log.resets += 1;
            Work::Done
        }
        Command::Version(_)
        | Command::RegionIoFds(_)
        | Command::DeviceFeature(_)
        | Command::MigDataRead(_)
        | Command::MigDataWrite(_) => Work::Fail(Errno::NOTSUP),
    }
}
