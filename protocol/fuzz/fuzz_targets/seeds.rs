//! Writes the first inputs of every target below the directory that it is given: well-formed messages, written with
//! the encoders that protocol/tests/golden.rs holds against the specification.

#![expect(
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "a list of messages that are known to be well-formed"
)]

use protocol::messages::dma_access;
use protocol::messages::feature::{self, LoggingRanges};
use protocol::messages::io_fds::{self, IoFd, IoFdKind};
use protocol::messages::region_info::RegionInfoReply;
use protocol::messages::write_multi::{self, WriteMultiEntry};
use protocol::messages::{
    DeviceState, Feature, MigDataRead, MigDataWrite, RegionAccess, device, irq,
};
use protocol::{
    Capabilities, CommandCode, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, Header, HeaderFlags,
    Iova, IovaRange, IrqAction, IrqData, IrqIndex, IrqInfo, IrqInfoFlags, MessageId, RegionFlags,
    RegionIndex, SetIrqs, SparseArea, Version,
};
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// Body of a message.
fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

struct Corpus {
    root: PathBuf,
    /// All requests, as the steps of one session.
    steps: RefCell<Vec<u8>>,
}

impl Corpus {
    fn add(&self, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.root.join(target);
        std::fs::create_dir_all(&folder)?;
        // Several messages of one kind have the same length.
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let name = format!("seed-{name}-{:016x}", hasher.finish());
        std::fs::write(folder.join(name), bytes)
    }

    /// A request for the target of its family, where it stands at `place`, and as a step of a server session.
    fn request(
        &self,
        target: &str,
        place: u8,
        command: u8,
        fds: u8,
        body: &[u8],
    ) -> io::Result<()> {
        let name = format!("{command}-{}", body.len());
        self.add(target, &name, &[&[place | fds << 6], body].concat())?;
        let version = [0, 0, 0];
        let len = u8::try_from(body.len()).expect("short");
        let step = [&version[..], &[4 | fds << 3, command, len], body].concat();
        self.add("server_session", &name, &step)?;
        let step = &step[version.len()..];
        self.steps.borrow_mut().extend(step);
        self.add("dispatcher", &name, step)?;
        self.add("twin_socket", &name, &[&[0], step].concat())
    }

    /// An answer for its target, and as a step of a client session, behind answers to what is asked before it.
    fn reply(&self, which: u8, before: usize, body: &[u8]) -> io::Result<()> {
        let name = format!("{which}-{}", body.len());
        self.add("replies", &name, &[&[which, 4], body].concat())?;
        let len = u8::try_from(body.len()).expect("short");
        let mut steps = [5, 0, 0].repeat(before);
        steps.extend([5, 0, len]);
        steps.extend(body);
        self.add("client_session", &name, &steps)?;
        self.add(
            "twin_socket",
            &format!("client-{name}"),
            &[&[0x80], &steps[..]].concat(),
        )
    }
}

fn range() -> IovaRange {
    IovaRange::new(Iova(0x1000), 0x2000).expect("a range")
}

fn requests(corpus: &Corpus) -> io::Result<()> {
    let map = DmaMap {
        range: range(),
        file_offset: 0x1000,
        flags: DmaMapFlags::READ_WRITE,
        fd: None,
    };
    corpus.request("command_dma", 0, 2, 1, &body(|out| map.encode(out)))?;
    for unmap in [DmaUnmap::Range(range()), DmaUnmap::All] {
        corpus.request("command_dma", 1, 3, 0, &body(|out| unmap.encode(out)))?;
    }
    corpus.request("command_query", 0, 4, 0, &body(device::encode_request))?;
    let head = body(|out| irq::encode_info_request(IrqIndex::MSI, out));
    corpus.request("command_query", 3, 7, 0, &head)?;
    corpus.request(
        "command_query",
        1,
        5,
        0,
        &[&[32, 0, 0, 0][..], &[0; 28]].concat(),
    )?;
    corpus.request(
        "command_query",
        2,
        6,
        0,
        &[&[64, 0, 0, 0][..], &[0; 12]].concat(),
    )?;
    for data in [
        IrqData::None,
        IrqData::Bool(vec![true, false]),
        IrqData::Eventfd(vec![]),
    ] {
        let fds = if matches!(data, IrqData::Eventfd(_)) {
            2
        } else {
            0
        };
        let request = SetIrqs {
            index: IrqIndex::MSIX,
            start: 0,
            count: 2,
            action: IrqAction::Trigger,
            data,
        };
        corpus.request("command_irqs", 0, 8, fds, &body(|out| request.encode(out)))?;
    }
    let access = RegionAccess {
        region: RegionIndex::BAR0,
        offset: 0xdd,
        count: 4,
    };
    let head = body(|out| access.encode(out));
    corpus.request("command_access", 0, 9, 0, &head)?;
    corpus.request(
        "command_access",
        1,
        10,
        0,
        &[&head[..], &[1, 2, 3, 4]].concat(),
    )?;
    let entry = WriteMultiEntry {
        region: RegionIndex::BAR0,
        offset: 8,
        data: &[1, 2],
    };
    let multi = body(|out| write_multi::encode_request(&[entry; 2], out).expect("short"));
    corpus.request("command_access", 2, 15, 0, &multi)?;
    for feature in [
        Feature::Probe {
            feature: 2,
            get: true,
            set: true,
        },
        Feature::GetMigration,
        Feature::GetState,
        Feature::SetState(DeviceState::Stop),
        Feature::StartLogging {
            page_size: 4096,
            ranges: LoggingRanges::EVERYWHERE,
        },
        Feature::StopLogging,
        Feature::ReportLogging {
            range: range(),
            page_size: 4096,
        },
    ] {
        let request = body(|out| feature.encode_request(64, out));
        corpus.request("command_feature", 0, 16, 0, &request)?;
    }
    corpus.request("command_feature", 0, 16, 0, &logging_of_two_ranges())?;
    let read = body(|out| MigDataRead { size: 16 }.encode(out));
    corpus.request("command_feature", 1, 17, 0, &read)?;
    let write = body(|out| MigDataWrite { data: &[1; 4] }.encode(out));
    corpus.request("command_feature", 2, 18, 0, &write)?;
    corpus.request("command_query", 8, 13, 0, &[])
}

/// DMA_LOGGING_START: argsz, flags, page_size, num_ranges, reserved, then address and length of each.
fn logging_of_two_ranges() -> Vec<u8> {
    let words: [u64; 7] = [56 | 0x2_0006 << 32, 4096, 2, 0x1000, 0x2000, 0x8000, 0x1000];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Answers that no step of a session brings about, or not in this form.
fn odd_answers(corpus: &Corpus) -> io::Result<()> {
    let bell = |offset, fd_index, flags| IoFd {
        offset,
        size: 4,
        fd_index,
        flags,
        kind: IoFdKind::IoEventFd { datamatch: 7 },
    };
    let entries = [bell(0x44, 0, 0), bell(0x48, 1, IoFd::DATAMATCH)];
    let fds = body(|out| io_fds::encode_reply(RegionIndex::BAR0, &entries, 4096, out));
    corpus.add("replies", "io-fds", &[&[3, 2], &fds[..]].concat())?;
    // The entries of libvfio-user are 48 bytes long.
    let mut long = fds.clone();
    long[..4].copy_from_slice(&(16u32 + 2 * 48).to_ne_bytes());
    long.splice(16 + 40..16 + 40, [0; 8]);
    long.extend([0; 8]);
    corpus.add("replies", "io-fds-48", &[&[3, 2], &long[..]].concat())?;
    let state = body(|out| feature::encode_reply(0x1_0002, &[2, 0, 0, 0, 0, 0, 0, 0], out));
    corpus.add("replies", "feature", &[&[7, 0], &state[..]].concat())?;
    let mut piece = body(|out| MigDataRead::encode_reply_head(4, out));
    piece.extend([1; 4]);
    corpus.add("replies", "migration", &[&[8, 16], &piece[..]].concat())
}

/// DMA messages on a twin socket, by the side that sends them.
fn twin(corpus: &Corpus) -> io::Result<()> {
    let head = body(|out| dma_access::encode_head(Iova(0x1000), 8, out));
    let read = [&head[..], &[1; 8]].concat();
    for (name, what, command, body) in [
        ("answer-read", 0x80 | 5, 11, &read),
        ("answer-write", 0x80 | 5, 12, &head),
        ("ask-read", 0x80 | 4, 11, &head),
        ("ask-write", 0x80 | 4, 12, &read),
    ] {
        let len = u8::try_from(body.len()).expect("short");
        let step = [&[what, command, len], &body[..]].concat();
        for side in [0, 0x80] {
            corpus.add(
                "twin_socket",
                &format!("{name}-{side}"),
                &[&[side], &step[..]].concat(),
            )?;
        }
    }
    Ok(())
}

fn answers(corpus: &Corpus) -> io::Result<()> {
    let info = DeviceInfo {
        reset: true,
        pci: true,
        num_regions: 9,
        num_irqs: 5,
    };
    corpus.reply(0, 2, &body(|out| info.encode_reply(out)))?;
    let info = IrqInfo {
        index: IrqIndex::MSIX,
        flags: IrqInfoFlags::EVENTFD,
        count: 16,
    };
    corpus.reply(1 | 2 << 4, 4, &body(|out| info.encode_reply(out)))?;
    corpus.reply(2, 10, &body(|out| DmaUnmap::All.encode(out)))?;
    let access = RegionAccess {
        region: RegionIndex::BAR0,
        offset: 0,
        count: 4,
    };
    let head = body(|out| access.encode(out));
    corpus.reply(4, 7, &[&head[..], &[1, 2, 3, 4]].concat())?;
    corpus.reply(5, 8, &head)?;
    corpus.reply(6, 9, &body(|out| write_multi::encode_reply(2, out)))?;
    corpus.reply(
        9,
        0,
        &[&[0; 8][..], &[4, 0, 0, 0, 0, 0, 0, 0], &[1; 4]].concat(),
    )?;
    let areas = [(0, 0x1000), (0x2000, 0x1000)].map(|(offset, size)| SparseArea { offset, size });
    let info = RegionInfoReply {
        index: RegionIndex::BAR0,
        flags: RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP,
        size: 0x4000,
        offset: 0,
        areas: &areas,
    };
    let whole = body(|out| info.encode(4096, out));
    corpus.add(
        "reply_region_info",
        "sparse",
        &[&[0x40], &whole[..]].concat(),
    )?;
    corpus.reply(15, 3, &whole)
}

fn main() -> io::Result<()> {
    let Some(root) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    let corpus = Corpus {
        root: Path::new(&root).to_path_buf(),
        steps: RefCell::default(),
    };
    let header = Header {
        id: MessageId(1),
        command: CommandCode::REGION_READ,
        size: 32,
        flags: HeaderFlags::COMMAND,
        error: 0,
    };
    corpus.add("header", "request", &header.to_bytes())?;
    let version = Version {
        major: 0,
        minor: 1,
        capabilities: Capabilities::OURS,
    };
    corpus.add("command_version", "ours", &body(|out| version.encode(out)))?;
    let qemu = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":16,\"migration\":{\"pgsize\":4096},\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}\0";
    corpus.add("command_version", "others", qemu)?;
    requests(&corpus)?;
    corpus.add("dispatcher", "all", &corpus.steps.borrow())?;
    odd_answers(&corpus)?;
    twin(&corpus)?;
    answers(&corpus)
}
