//! One answer of a server.
//!
//! Spec: vfio-user, "Header" (an error reply is the header alone) and each command's reply.
//! File descriptors are left out when the client takes none, and together with the areas they belong to.

use crate::ids::RegionIndex;
use crate::messages::device::DeviceInfo;
use crate::messages::dma::DmaUnmap;
use crate::messages::io_fds::{self, IoFd};
use crate::messages::irq::IrqInfo;
use crate::messages::migration::MigDataRead;
use crate::messages::region::{RegionAccess, RegionFlags};
use crate::messages::region_info::RegionInfoReply;
use crate::messages::version::Version;
use crate::messages::{feature, write_multi};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a server answers.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// It was not done.
    Error(Errno),
    /// Done, nothing to say: DMA_MAP, DEVICE_SET_IRQS, DEVICE_RESET, MIG_DATA_WRITE.
    Done,
    /// VERSION, with the client's end of a twin socket.
    Version(Version, Option<BorrowedFd<'a>>),
    /// DMA_UNMAP: the request again.
    DmaUnmap(DmaUnmap),
    /// DEVICE_GET_INFO.
    DeviceInfo(DeviceInfo),
    /// DEVICE_GET_REGION_INFO.
    RegionInfo {
        /// What to say.
        info: RegionInfoReply<'a>,
        /// Room that the request announced.
        argsz: u32,
        /// The file to map.
        fd: Option<BorrowedFd<'a>>,
    },
    /// DEVICE_GET_REGION_IO_FDS.
    RegionIoFds {
        /// Which region.
        index: RegionIndex,
        /// Its parts.
        entries: &'a [IoFd],
        /// Room that the request announced.
        argsz: u32,
        /// The descriptors that the entries count.
        fds: &'a [OwnedFd],
    },
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo(IrqInfo),
    /// REGION_READ.
    RegionRead {
        /// The region of the request.
        region: RegionIndex,
        /// The offset of the request.
        offset: u64,
        /// What was read; as many bytes as were asked.
        data: &'a [u8],
    },
    /// REGION_WRITE: where and how much, as in the request.
    RegionWrite(RegionAccess),
    /// REGION_WRITE_MULTI: how many writes were done.
    RegionWriteMulti(u64),
    /// DEVICE_FEATURE: the flags of the request, and data.
    DeviceFeature(u32, &'a [u8]),
    /// MIG_DATA_READ.
    MigData(&'a [u8]),
}

/// A reply taken apart for sending: the head is in the caller's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) fd: Option<BorrowedFd<'a>>,
    pub(crate) fds: &'a [OwnedFd],
}

impl<'a> Reply<'a> {
    /// Appends the fixed part of the payload to `head` and returns what goes behind and beside it.
    pub(crate) fn encode(&self, peer_max_msg_fds: u32, head: &mut Vec<u8>) -> Parts<'a> {
        let mut parts = Parts {
            data: &[],
            fd: None,
            fds: &[],
        };
        match *self {
            Self::Error(_) | Self::Done => {}
            Self::Version(version, twin) => {
                version.encode(head);
                parts.fd = twin;
            }
            Self::DmaUnmap(unmap) => unmap.encode(head),
            Self::DeviceInfo(info) => info.encode_reply(head),
            Self::RegionInfo { info, argsz, fd } => {
                let fd = fd.filter(|_| peer_max_msg_fds > 0);
                let info = if fd.is_some() { info } else { unmappable(info) };
                info.encode(argsz, head);
                parts.fd = fd.filter(|_| info.fits(argsz));
            }
            Self::RegionIoFds {
                index,
                entries,
                argsz,
                fds,
            } => {
                let most = usize::try_from(peer_max_msg_fds).unwrap_or(usize::MAX);
                let entries = if fds.len() <= most { entries } else { &[] };
                io_fds::encode_reply(index, entries, argsz, head);
                if !entries.is_empty() && io_fds::fits(entries, argsz) {
                    parts.fds = fds;
                }
            }
            Self::IrqInfo(info) => info.encode_reply(head),
            Self::RegionRead {
                region,
                offset,
                data,
            } => {
                let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
                RegionAccess {
                    region,
                    offset,
                    count,
                }
                .encode(head);
                parts.data = data;
            }
            Self::RegionWrite(access) => access.encode(head),
            Self::RegionWriteMulti(done) => write_multi::encode_reply(done, head),
            Self::DeviceFeature(flags, data) => feature::encode_reply(flags, data, head),
            Self::MigData(data) => {
                let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                MigDataRead::encode_reply_head(bytes, head);
                parts.data = data;
            }
        }
        parts
    }
}

/// Without a file there is nothing to map, and it would be wrong to say so.
fn unmappable(info: RegionInfoReply<'_>) -> RegionInfoReply<'_> {
    RegionInfoReply {
        flags: info.flags.difference(RegionFlags::MMAP),
        areas: &[],
        ..info
    }
}
