//! Bytes of every message, written out from the layouts of the specification ("Header" and one section per command),
//! against what this crate writes and reads. Integers are little-endian here: the tests run on such a machine.

#![cfg(test)]

mod peers;

use peers::device::memfd;
use peers::{hex, written};
use protocol::messages::dma_access;
use protocol::messages::feature::{self, LoggingRanges};
use protocol::messages::io_fds::{self, IoFd, IoFdKind, IoFdsRequest};
use protocol::messages::region_info::{RegionInfoReply, RegionInfoRequest};
use protocol::messages::write_multi::{self, WriteMultiEntry};
use protocol::messages::{
    Capabilities, DeviceFeature, DeviceState, Feature, MigDataRead, MigDataWrite, Migration,
    RegionAccess, RegionWrite, TwinSocket, Version, WriteMulti, device, irq,
};
use protocol::{
    CommandCode, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, Header, HeaderFlags, Iova, IovaRange,
    IrqAction, IrqData, IrqIndex, IrqInfo, IrqInfoFlags, MessageId, RegionFlags, RegionIndex,
    SetIrqs, SparseArea,
};

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

#[test]
fn golden_header() {
    let header = Header {
        id: MessageId(0x1234),
        command: CommandCode::REGION_READ,
        size: 32,
        flags: HeaderFlags::COMMAND,
        error: 0,
    };
    let bytes = hex("3412 0900 20000000 00000000 00000000");
    assert_eq!(header.to_bytes().to_vec(), bytes);
    let error_reply = Header {
        size: 16,
        flags: HeaderFlags::REPLY_ERROR,
        error: 22,
        ..header
    };
    let bytes = hex("3412 0900 10000000 21000000 16000000");
    assert_eq!(error_reply.to_bytes().to_vec(), bytes);
    let read = Header::parse(bytes.first_chunk().unwrap(), 4096).unwrap();
    assert_eq!(read, error_reply);
    assert_eq!(HeaderFlags::COMMAND_NO_REPLY.0, 0x10);
}

#[test]
fn golden_command_numbers() {
    let names: Vec<_> = (0..20)
        .map(|n| CommandCode(n).name().unwrap_or("-"))
        .collect();
    let wanted = "- VERSION DMA_MAP DMA_UNMAP DEVICE_GET_INFO DEVICE_GET_REGION_INFO \
                  DEVICE_GET_REGION_IO_FDS DEVICE_GET_IRQ_INFO DEVICE_SET_IRQS REGION_READ \
                  REGION_WRITE DMA_READ DMA_WRITE DEVICE_RESET - REGION_WRITE_MULTI \
                  DEVICE_FEATURE MIG_DATA_READ MIG_DATA_WRITE -";
    assert_eq!(names.join(" "), wanted);
}

#[test]
fn golden_version() {
    let text = r#"{"capabilities":{"max_data_xfer_size":4096,"max_dma_maps":7,"max_msg_fds":3,"migration":{"pgsize":65536},"pgsizes":8192,"twin_socket":{"fd_index":1,"supported":true},"write_multiple":true}}"#;
    let mut bytes = hex("0000 0100");
    bytes.extend(text.as_bytes());
    bytes.push(0);
    let version = Version {
        major: 0,
        minor: 1,
        capabilities: Capabilities {
            max_msg_fds: 3,
            max_data_xfer_size: 4096,
            max_dma_maps: 7,
            pgsizes: 8192,
            twin_socket: TwinSocket::Fd(1),
            write_multiple: true,
            migration: Some(Migration { pgsize: 65536 }),
        },
    };
    assert_eq!(written(|out| version.encode(out)), bytes);
    assert_eq!(Version::decode_reply(&bytes), Ok(version));
    let bare = Version {
        major: 0,
        minor: 0,
        capabilities: Capabilities::UNSTATED,
    };
    assert_eq!(Version::decode_request(&hex("0000 0000")), Ok(bare));
}

#[test]
fn golden_dma_map_and_unmap() {
    let bytes = hex("20000000 03000000 0020000000000000 0000010000000000 0030000000000000");
    let map = DmaMap {
        range: range(0x10000, 0x3000),
        file_offset: 0x2000,
        flags: DmaMapFlags::READ_WRITE,
        fd: None,
    };
    assert_eq!(written(|out| map.encode(out)), bytes);
    let read = DmaMap::decode_request(&bytes, vec![memfd(1).into()]).unwrap();
    assert_eq!(
        (read.range, read.file_offset, read.flags),
        (map.range, 0x2000, map.flags)
    );
    let bytes = hex("18000000 00000000 0000010000000000 0030000000000000");
    let unmap = DmaUnmap::Range(map.range);
    assert_eq!(written(|out| unmap.encode(out)), bytes);
    assert_eq!(DmaUnmap::decode_request(&bytes), Ok(unmap));
    let bytes = hex("18000000 02000000 0000000000000000 0000000000000000");
    assert_eq!(written(|out| DmaUnmap::All.encode(out)), bytes);
    assert_eq!(DmaUnmap::decode_request(&bytes), Ok(DmaUnmap::All));
}

#[test]
fn golden_device_info() {
    let bytes = hex("10000000 00000000 00000000 00000000");
    assert_eq!(written(device::encode_request), bytes);
    assert_eq!(device::decode_request(&bytes), Ok(()));
    let bytes = hex("10000000 03000000 09000000 05000000");
    let info = DeviceInfo {
        reset: true,
        pci: true,
        num_regions: 9,
        num_irqs: 5,
    };
    assert_eq!(written(|out| info.encode_reply(out)), bytes);
    assert_eq!(DeviceInfo::decode_reply(&bytes), Ok(info));
}

#[test]
fn golden_region_info() {
    let bytes = hex("50000000 00000000 02000000 00000000 0000000000000000 0000000000000000");
    let request = RegionInfoRequest {
        index: RegionIndex::BAR2,
        argsz: 80,
    };
    assert_eq!(written(|out| request.encode(out)), bytes);
    assert_eq!(RegionInfoRequest::decode(&bytes), Ok(request));

    let areas = [(0, 0x1000), (0x2000, 0x2000)].map(|(offset, size)| SparseArea { offset, size });
    let reply = RegionInfoReply {
        index: RegionIndex::BAR2,
        flags: RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP,
        size: 0x4000,
        offset: 0x8000,
        areas: &areas,
    };
    let head = "0f000000 02000000 20000000 0040000000000000 0080000000000000";
    let sparse = "0100 0100 00000000 02000000 00000000";
    let list = "0000000000000000 0010000000000000 0020000000000000 0020000000000000";
    let full = hex(&format!("50000000 {head} {sparse} {list}"));
    assert_eq!(full.len(), 80);
    assert_eq!(written(|out| reply.encode(80, out)), full);
    let read =
        protocol::RegionInfo::decode(&full, RegionIndex::BAR2, vec![memfd(1).into()]).unwrap();
    assert_eq!((read.size, read.offset), (0x4000, 0x8000));
    assert_eq!(read.areas, areas);
}

/// Rows i07, i08, i09: whole, or the fixed part that says how much room the whole takes.
#[test]
fn i06_i07_i08_i09_i10_region_info_is_never_torn() {
    let areas = [SparseArea {
        offset: 0,
        size: 0x1000,
    }];
    let reply = RegionInfoReply {
        index: RegionIndex::BAR0,
        flags: RegionFlags::READ | RegionFlags::MMAP,
        size: 0x1000,
        offset: 0,
        areas: &areas,
    };
    let alone = hex("40000000 05000000 00000000 00000000 0010000000000000 0000000000000000");
    for argsz in 32..64 {
        assert_eq!(written(|out| reply.encode(argsz, out)), alone);
        assert!(!reply.fits(argsz));
    }
    for argsz in [64, 65, u32::MAX] {
        assert_eq!(written(|out| reply.encode(argsz, out)).len(), 64);
        assert!(reply.fits(argsz));
    }
    let plain = RegionInfoReply {
        flags: RegionFlags::READ,
        areas: &[],
        ..reply
    };
    let bytes = hex("20000000 01000000 00000000 00000000 0010000000000000 0000000000000000");
    assert_eq!(written(|out| plain.encode(40, out)), bytes);
}

#[test]
fn golden_region_io_fds() {
    let bytes = hex("40000000 00000000 01000000 00000000");
    let request = IoFdsRequest {
        index: RegionIndex::BAR1,
        argsz: 64,
    };
    assert_eq!(written(|out| request.encode(out)), bytes);
    assert_eq!(IoFdsRequest::decode(&bytes), Ok(request));
    let entries = [IoFd {
        offset: 0x18,
        size: 4,
        fd_index: 0,
        flags: 1,
        kind: IoFdKind::IoEventFd { datamatch: 0xabcd },
    }];
    let entry =
        "1800000000000000 0400000000000000 00000000 00000000 01000000 00000000 cdab000000000000";
    let bytes = hex(&format!("38000000 00000000 01000000 01000000 {entry}"));
    let reply = written(|out| io_fds::encode_reply(RegionIndex::BAR1, &entries, 64, out));
    assert_eq!(reply, bytes);
    // Row i22: no room, the fixed part alone.
    let reply = written(|out| io_fds::encode_reply(RegionIndex::BAR1, &entries, 16, out));
    assert_eq!(reply, bytes[..16]);
}

#[test]
fn golden_irqs() {
    let bytes = hex("10000000 00000000 02000000 00000000");
    assert_eq!(
        written(|out| irq::encode_info_request(IrqIndex::MSIX, out)),
        bytes
    );
    assert_eq!(irq::decode_info_request(&bytes), Ok(IrqIndex::MSIX));
    let bytes = hex("10000000 09000000 02000000 00080000");
    let info = IrqInfo {
        index: IrqIndex::MSIX,
        flags: IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE,
        count: 2048,
    };
    assert_eq!(written(|out| info.encode_reply(out)), bytes);
    assert_eq!(IrqInfo::decode_reply(&bytes, IrqIndex::MSIX), Ok(info));

    let set = |action, data| SetIrqs {
        index: IrqIndex::MSIX,
        start: 1,
        count: 3,
        action,
        data,
    };
    let eventfds = set(IrqAction::Trigger, IrqData::Eventfd(Vec::new()));
    let bytes = hex("14000000 24000000 02000000 01000000 03000000");
    assert_eq!(written(|out| eventfds.encode(out)), bytes);
    let bools = set(IrqAction::Mask, IrqData::Bool(vec![true, false, true]));
    let bytes = hex("17000000 0a000000 02000000 01000000 03000000 01 00 01");
    assert_eq!(written(|out| bools.encode(out)), bytes);
    let none = set(IrqAction::Unmask, IrqData::None);
    let bytes = hex("14000000 11000000 02000000 01000000 03000000");
    assert_eq!(written(|out| none.encode(out)), bytes);
}

#[test]
fn golden_region_read_and_write() {
    let bytes = hex("1000000000000000 07000000 04000000");
    let access = RegionAccess {
        region: RegionIndex::CONFIG,
        offset: 0x10,
        count: 4,
    };
    assert_eq!(written(|out| access.encode(out)), bytes);
    assert_eq!(RegionAccess::decode_request(&bytes, 4), Ok(access));
    let with_data = hex("1000000000000000 07000000 04000000 efbeadde");
    let write = RegionWrite {
        region: RegionIndex::CONFIG,
        offset: 0x10,
        data: &[0xef, 0xbe, 0xad, 0xde],
    };
    assert_eq!(RegionWrite::decode_request(&with_data, 4), Ok(write));
    assert_eq!(access.decode_read_reply(&with_data), Ok(write.data));
    assert_eq!(access.check_write_reply(&bytes), Ok(()));
}

#[test]
fn golden_write_multi() {
    let entries = [
        WriteMultiEntry {
            region: RegionIndex::BAR0,
            offset: 0x20,
            data: &[1, 2, 3, 4],
        },
        WriteMultiEntry {
            region: RegionIndex::BAR4,
            offset: 0x28,
            data: &[5],
        },
    ];
    let bytes = hex("0200000000000000
         2000000000000000 00000000 04000000 01020304 00000000
         2800000000000000 04000000 01000000 05000000 00000000");
    let request = written(|out| write_multi::encode_request(&entries, out).unwrap());
    assert_eq!(request, bytes);
    let read: Vec<_> = WriteMulti::decode_request(&bytes)
        .unwrap()
        .entries()
        .collect();
    assert_eq!(read, entries);
    assert_eq!(
        written(|out| write_multi::encode_reply(2, out)),
        hex("0200000000000000")
    );
}

#[test]
fn golden_dma_read_and_write() {
    let bytes = hex("0000400000000000 0002000000000000");
    assert_eq!(
        written(|out| dma_access::encode_head(Iova(0x40_0000), 0x200, out)),
        bytes
    );
}

#[test]
fn golden_device_feature() {
    let cases = [
        (
            Feature::Probe {
                feature: 2,
                get: true,
                set: true,
            },
            8,
            "08000000 02000700",
        ),
        (Feature::GetMigration, 16, "10000000 01000100"),
        (Feature::GetState, 16, "10000000 02000100"),
        (
            Feature::SetState(DeviceState::StopCopy),
            16,
            "10000000 02000200 03000000 00000000",
        ),
        (
            Feature::StartLogging {
                page_size: 4096,
                ranges: LoggingRanges::EVERYWHERE,
            },
            24,
            "18000000 06000200 0010000000000000 00000000 00000000",
        ),
        (Feature::StopLogging, 8, "08000000 07000200"),
        (
            Feature::ReportLogging {
                range: range(0x1000, 0x2000),
                page_size: 4096,
            },
            40,
            "28000000 08000100 0010000000000000 0020000000000000 0010000000000000",
        ),
    ];
    for (feature, argsz, text) in cases {
        assert_eq!(written(|out| feature.encode_request(argsz, out)), hex(text));
        let bytes = hex(text);
        let read = DeviceFeature::decode_request(&bytes, 4096);
        assert_eq!(read, Ok(DeviceFeature { argsz, feature }), "{text}");
    }
    assert_eq!(
        written(|out| feature::encode_reply(0x1_0001, &[1, 2], out)),
        hex("0a000000 01000100 0102")
    );
}

#[test]
fn golden_migration_data() {
    let read = MigDataRead { size: 0x100 };
    let bytes = hex("08010000 00010000");
    assert_eq!(written(|out| read.encode(out)), bytes);
    assert_eq!(MigDataRead::decode_request(&bytes, 0x100), Ok(read));
    // Row g17, and a peer that pads: size counts.
    let reply = hex("0a000000 02000000 aabb 00000000");
    assert_eq!(read.decode_reply(&reply), Ok(&[0xaa, 0xbb][..]));
    let write = MigDataWrite {
        data: &[0xaa, 0xbb],
    };
    let bytes = hex("0a000000 02000000 aabb");
    assert_eq!(written(|out| write.encode(out)), bytes);
    assert_eq!(MigDataWrite::decode_request(&bytes, 0x100), Ok(write));
}
