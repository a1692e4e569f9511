//! Every other answer of a server, and both of a client, read for a request that is picked by the first bytes.
#![no_main]

mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::messages::dma_access::{self, DmaRequest};
use protocol::messages::io_fds::IoFds;
use protocol::messages::{DeviceInfo, MigDataRead, RegionAccess, feature, write_multi};
use protocol::{CommandCode, DmaUnmap, Iova, IrqIndex, IrqInfo, RegionIndex};

fuzz_target!(|data: &[u8]| {
    let Some(([first, small], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let count = usize::from(*small);
    let access = RegionAccess {
        region: RegionIndex(u32::from(first >> 4)),
        offset: 0,
        count: u32::from(*small),
    };
    match first & 0x0f {
        0 => drop(DeviceInfo::decode_reply(body)),
        1 => drop(IrqInfo::decode_reply(body, IrqIndex(u32::from(first >> 4)))),
        2 => drop(DmaUnmap::All.check_reply(body)),
        3 => {
            let fds = descriptors::descriptors(small & 3);
            let available = fds.len();
            if let Ok(info) = IoFds::decode(body, RegionIndex::BAR0, 0x1000, fds) {
                for entry in info.entries {
                    assert!((entry.fd_index as usize) < available);
                    assert!(entry.offset + entry.size <= 0x1000);
                }
            }
        }
        4 => {
            if let Ok(bytes) = access.decode_read_reply(body) {
                assert_eq!(count, bytes.len());
            }
        }
        5 => drop(access.check_write_reply(body)),
        6 => {
            if let Ok(done) = write_multi::decode_reply(body, count) {
                assert!(done as usize <= count);
            }
        }
        7 => drop(feature::decode_reply(body)),
        8 => {
            let request = MigDataRead {
                size: u32::from(*small),
            };
            if let Ok(piece) = request.decode_reply(body) {
                assert!(piece.len() <= count);
            }
        }
        9 => {
            if let Ok(bytes) = dma_access::decode_read_reply(body, Iova(0), count) {
                assert_eq!(bytes.len(), count);
            }
        }
        10 => drop(dma_access::decode_write_reply(body, Iova(0), count)),
        _ => {
            let command = CommandCode(11 + u16::from(small & 1));
            if let Ok(DmaRequest::Write { data, .. }) = DmaRequest::decode(command, body, 4096) {
                assert!(data.len() <= 4096);
            }
        }
    }
});
