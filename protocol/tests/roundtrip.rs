//! What is written reads back as itself, for every message and whatever its values; and whatever bytes come, reading
//! them ends with a value or a refusal.

#![cfg(test)]

mod peers;

use peers::device::memfd;
use peers::written;
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::messages::dma_access::{self, DmaRequest};
use protocol::messages::io_fds::{self, IoFd, IoFdKind, IoFds, IoFdsHead, IoFdsRequest};
use protocol::messages::region_info::{RegionInfoHead, RegionInfoReply, RegionInfoRequest};
use protocol::messages::write_multi::{self, WriteMultiEntry};
use protocol::messages::{
    Capabilities, DeviceFeature, DeviceState, Feature, MigDataRead, MigDataWrite, Migration,
    RegionAccess, RegionWrite, TwinSocket, Version, WriteMulti,
};
use protocol::{
    Command, CommandCode, DecodeContext, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, Frame, Header,
    HeaderFlags, Iova, IovaRange, IrqAction, IrqData, IrqIndex, IrqInfo, IrqInfoFlags, MessageId,
    RegionFlags, RegionIndex, RegionInfo, SetIrqs, SparseArea,
};

const MAX: u32 = 1 << 20;

prop_compose! {
    fn any_range()(start in 0u64..1 << 40, pages in 1u64..1 << 20) -> IovaRange {
        IovaRange::new(Iova(start << 12), pages << 12).unwrap()
    }
}

prop_compose! {
    fn any_capabilities()(
        max_msg_fds in 0u32..=253,
        max_data_xfer_size in 1u32..=MAX,
        max_dma_maps in 0u32..=65535,
        pgsizes in 1u64..1 << 40,
        write_multiple: bool,
        twin in prop::option::of(0u32..8),
        migration in prop::option::of(0u32..40),
    ) -> Capabilities {
        Capabilities {
            max_msg_fds,
            max_data_xfer_size,
            max_dma_maps,
            pgsizes: pgsizes << 12,
            twin_socket: twin.map_or(TwinSocket::Unsupported, TwinSocket::Fd),
            write_multiple,
            migration: migration.map(|shift| Migration { pgsize: 1 << shift }),
        }
    }
}

/// Areas of whole pages with gaps between them, and the size of a BAR that holds them.
fn any_areas() -> impl Strategy<Value = (Vec<SparseArea>, u64)> {
    vec((0u64..4, 1u64..4), 0..20).prop_map(|steps| {
        let mut areas = Vec::new();
        let mut at = 0u64;
        for (gap, pages) in steps {
            at += gap << 12;
            let size = pages << 12;
            areas.push(SparseArea { offset: at, size });
            at += size;
        }
        (areas, at.max(0x1000).next_power_of_two())
    })
}

fn any_action() -> impl Strategy<Value = IrqAction> {
    prop_oneof![
        Just(IrqAction::Mask),
        Just(IrqAction::Unmask),
        Just(IrqAction::Trigger)
    ]
}

proptest! {
    #[test]
    fn roundtrip_header(id: u16, command: u16, size in 16u32..=MAX, kind in 0u32..2, high: u32, error: u32) {
        let header = Header {
            id: MessageId(id),
            command: CommandCode(command),
            size,
            flags: HeaderFlags(kind | high << 4),
            error,
        };
        prop_assert_eq!(Header::parse(&header.to_bytes(), MAX), Ok(header));
    }

    #[test]
    fn roundtrip_version(minor: u16, capabilities in any_capabilities()) {
        let version = Version { major: 0, minor, capabilities };
        let bytes = written(|out| version.encode(out));
        prop_assert_eq!(Version::decode_reply(&bytes), Ok(version));
    }

    #[test]
    fn roundtrip_dma_map(range in any_range(), page in 0u64..1 << 30, flags in 1u32..4, with_fd: bool) {
        let map = DmaMap {
            range,
            file_offset: if with_fd { page << 12 } else { 0 },
            flags: DmaMapFlags::from_bits_retain(flags),
            fd: None,
        };
        let fds = if with_fd { vec![memfd(1).into()] } else { vec![] };
        let read = DmaMap::decode_request(&written(|out| map.encode(out)), fds).unwrap();
        prop_assert_eq!((read.range, read.file_offset, read.flags), (range, map.file_offset, map.flags));
        prop_assert_eq!(read.fd.is_some(), with_fd);
    }

    #[test]
    fn roundtrip_dma_unmap(range in any_range()) {
        for unmap in [DmaUnmap::Range(range), DmaUnmap::All] {
            let bytes = written(|out| unmap.encode(out));
            prop_assert_eq!(DmaUnmap::decode_request(&bytes), Ok(unmap));
            prop_assert_eq!(unmap.check_reply(&bytes), Ok(()));
        }
    }

    #[test]
    fn roundtrip_device_info(reset: bool, num_regions in 8u32..=64, num_irqs in 0u32..=50) {
        let info = DeviceInfo { reset, pci: true, num_regions, num_irqs };
        let bytes = written(|out| info.encode_reply(out));
        prop_assert_eq!(DeviceInfo::decode_reply(&bytes), Ok(info));
    }

    #[test]
    fn roundtrip_region_info((areas, size) in any_areas(), page in 0u64..1 << 30, rights in 0u32..4) {
        let reply = RegionInfoReply {
            index: RegionIndex::BAR4,
            flags: RegionFlags::from_bits_truncate(rights) | RegionFlags::MMAP,
            size,
            offset: page << 12,
            areas: &areas,
        };
        let bytes = written(|out| reply.encode(8192, out));
        let head = RegionInfoHead::decode(&bytes, RegionIndex::BAR4).unwrap();
        prop_assert_eq!(head.argsz as usize, bytes.len());
        let read = RegionInfo::decode(&bytes, RegionIndex::BAR4, vec![memfd(1).into()]).unwrap();
        prop_assert_eq!((read.size, read.offset), (reply.size, reply.offset));
        let whole = [SparseArea { offset: 0, size }];
        prop_assert_eq!(&read.areas[..], if areas.is_empty() { &whole[..] } else { &areas[..] });
        let request = RegionInfoRequest { index: RegionIndex::BAR4, argsz: head.argsz };
        prop_assert_eq!(RegionInfoRequest::decode(&written(|out| request.encode(out))), Ok(request));
    }

    #[test]
    fn roundtrip_io_fds(slots in vec((0u64..500, 0u32..3, any::<u32>(), any::<u64>(), any::<bool>()), 0..20)) {
        let entries: Vec<IoFd> = slots.into_iter().map(|(slot, fd_index, flags, data, region)| IoFd {
            offset: slot * 8,
            size: (1 << (slot % 5)) / 2,
            fd_index,
            flags,
            kind: if region {
                IoFdKind::IoRegionFd { user_data: data }
            } else {
                IoFdKind::IoEventFd { datamatch: data }
            },
        }).collect();
        let index = RegionIndex::BAR1;
        let bytes = written(|out| io_fds::encode_reply(index, &entries, MAX, out));
        let head = IoFdsHead::decode(&bytes, index).unwrap();
        prop_assert_eq!(head.argsz as usize, bytes.len());
        let fds = (0..3).map(|_| memfd(1).into()).collect();
        prop_assert_eq!(IoFds::decode(&bytes, index, 0x1000, fds).unwrap().entries, entries);
        let request = IoFdsRequest { index, argsz: head.argsz };
        prop_assert_eq!(IoFdsRequest::decode(&written(|out| request.encode(out))), Ok(request));
    }

    #[test]
    fn roundtrip_irq_info(flags in 0u32..16, count in 0u32..=2048) {
        let info = IrqInfo { index: IrqIndex::MSIX, flags: IrqInfoFlags::from_bits_truncate(flags), count };
        let bytes = written(|out| info.encode_reply(out));
        prop_assert_eq!(IrqInfo::decode_reply(&bytes, IrqIndex::MSIX), Ok(info));
    }

    #[test]
    fn roundtrip_set_irqs(start in 0u32..1000, bools in vec(any::<bool>(), 1..100), action in any_action(), kind in 0..3) {
        let count = u32::try_from(bools.len()).unwrap();
        let data = match kind {
            0 => IrqData::None,
            1 => IrqData::Bool(bools.clone()),
            _ => IrqData::Eventfd(vec![]),
        };
        let request = SetIrqs { index: IrqIndex::MSIX, start, count, action, data };
        let read = SetIrqs::decode_request(&written(|out| request.encode(out)), vec![]).unwrap();
        prop_assert_eq!((read.index, read.start, read.count, read.action), (IrqIndex::MSIX, start, count, action));
        let same = match (read.data, request.data) {
            (IrqData::None, IrqData::None) => true,
            (IrqData::Bool(read), IrqData::Bool(sent)) => read == sent,
            (IrqData::Eventfd(read), IrqData::Eventfd(_)) => read.is_empty(),
            (IrqData::None | IrqData::Bool(_) | IrqData::Eventfd(_), _) => false,
        };
        prop_assert!(same);
    }

    #[test]
    fn roundtrip_region_access(region: u32, offset: u64, data in vec(any::<u8>(), 0..100)) {
        let access = RegionAccess { region: RegionIndex(region), offset, count: u32::try_from(data.len()).unwrap() };
        let head = written(|out| access.encode(out));
        prop_assert_eq!(RegionAccess::decode_request(&head, MAX), Ok(access));
        prop_assert_eq!(access.check_write_reply(&head), Ok(()));
        let whole = [head, data.clone()].concat();
        let write = RegionWrite { region: access.region, offset, data: &data };
        prop_assert_eq!(RegionWrite::decode_request(&whole, MAX), Ok(write));
        prop_assert_eq!(access.decode_read_reply(&whole), Ok(&data[..]));
    }

    #[test]
    fn roundtrip_write_multi(writes in vec((any::<u32>(), any::<u64>(), vec(any::<u8>(), 0..9)), 0..50)) {
        let entries: Vec<_> = writes.iter().map(|(region, offset, data)| WriteMultiEntry {
            region: RegionIndex(*region),
            offset: *offset,
            data,
        }).collect();
        let bytes = written(|out| write_multi::encode_request(&entries, out).unwrap());
        let read: Vec<_> = WriteMulti::decode_request(&bytes).unwrap().entries().collect();
        prop_assert_eq!(read, entries);
        let done = u64::try_from(writes.len()).unwrap();
        let reply = written(|out| write_multi::encode_reply(done, out));
        prop_assert_eq!(write_multi::decode_reply(&reply, writes.len()), Ok(done));
    }

    #[test]
    fn roundtrip_dma_access(address in 0u64..1 << 60, data in vec(any::<u8>(), 0..100)) {
        let address = Iova(address);
        let count = u64::try_from(data.len()).unwrap();
        let head = written(|out| dma_access::encode_head(address, count, out));
        let whole = [head.clone(), data.clone()].concat();
        let read = DmaRequest::Read { address, count: u32::try_from(data.len()).unwrap() };
        prop_assert_eq!(DmaRequest::decode(CommandCode::DMA_READ, &head, MAX), Ok(read));
        let write = DmaRequest::Write { address, data: &data };
        prop_assert_eq!(DmaRequest::decode(CommandCode::DMA_WRITE, &whole, MAX), Ok(write));
        prop_assert_eq!(dma_access::decode_read_reply(&whole, address, data.len()), Ok(&data[..]));
        prop_assert_eq!(dma_access::decode_write_reply(&head, address, data.len()), Ok(()));
    }

    #[test]
    fn roundtrip_feature(range in any_range(), feature: u16, get: bool, shift in 12u32..43) {
        let page_size = 1 << shift;
        let features = [
            Feature::Probe { feature, get, set: !get },
            Feature::GetMigration,
            Feature::GetState,
            Feature::SetState(DeviceState::Resuming),
            Feature::StopLogging,
            Feature::ReportLogging { range, page_size },
        ];
        for feature in features {
            let bytes = written(|out| feature.encode_request(u32::MAX, out));
            let wanted = DeviceFeature { argsz: u32::MAX, feature };
            prop_assert_eq!(DeviceFeature::decode_request(&bytes, u32::MAX), Ok(wanted));
        }
    }

    #[test]
    fn roundtrip_migration_data(size in 0u32..=MAX, data in vec(any::<u8>(), 0..100)) {
        let read = MigDataRead { size };
        prop_assert_eq!(MigDataRead::decode_request(&written(|out| read.encode(out)), MAX), Ok(read));
        let write = MigDataWrite { data: &data };
        let bytes = written(|out| write.encode(out));
        prop_assert_eq!(MigDataWrite::decode_request(&bytes, MAX), Ok(write));
    }

    #[test]
    fn any_bytes_are_a_request_or_a_refusal(command in 0u16..20, body in vec(any::<u8>(), 0..200), fds in 0usize..3) {
        let frame = Frame {
            header: Header {
                id: MessageId(0),
                command: CommandCode(command),
                size: 16 + u32::try_from(body.len()).unwrap(),
                flags: HeaderFlags::COMMAND,
                error: 0,
            },
            body: &body,
            fds: (0..fds).map(|_| memfd(1).into()).collect(),
            fds_on_body: false,
        };
        let context = DecodeContext { write_multiple: true, ..DecodeContext::UNSTATED };
        if let Err(refusal) = Command::decode(frame, &context) {
            prop_assert_eq!(refusal.command, CommandCode(command));
        }
    }

    #[test]
    fn any_bytes_are_a_region_or_a_refusal(mut body in vec(any::<u8>(), 32..300), plausible: bool) {
        if plausible {
            // A head that is believed, so that the chain behind it is looked at.
            let argsz = u32::try_from(body.len()).unwrap().to_ne_bytes();
            body[..4].copy_from_slice(&argsz);
            body[4..16].copy_from_slice(&[15, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0]);
            body[16..32].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            if let Some(capability) = body.get_mut(32..36) {
                capability.copy_from_slice(&[1, 0, 1, 0]);
            }
        }
        if let Ok(info) = RegionInfo::decode(&body, RegionIndex::BAR0, vec![memfd(1).into()]) {
            let mut end = 0;
            for area in &info.areas {
                prop_assert!(area.offset >= end && area.size > 0);
                end = area.offset + area.size;
                prop_assert!(end <= info.size);
            }
        }
    }
}
