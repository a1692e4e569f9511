//! A request of the client, decoded: the closed set of what a server can be asked.
//!
//! Spec: vfio-user, "Commands". Decoding judges everything that can be judged without the device: lengths, flags,
//! limits, alignment, the number of file descriptors. What is left to the server says each message type.
//! A command that is not known, or is the server's own, is refused with EINVAL; its body has been read.
//! Limits: [`DecodeContext`].

use crate::frame::Frame;
use crate::header::CommandCode;
use crate::ids::IrqIndex;
use crate::limits;
use crate::messages::dma::{DmaMap, DmaUnmap};
use crate::messages::feature::DeviceFeature;
use crate::messages::io_fds::IoFdsRequest;
use crate::messages::irq::SetIrqs;
use crate::messages::migration::{MigDataRead, MigDataWrite};
use crate::messages::region::{RegionAccess, RegionWrite};
use crate::messages::region_info::RegionInfoRequest;
use crate::messages::version::{Capabilities, Version};
use crate::messages::write_multi::WriteMulti;
use crate::messages::{device, irq};
use crate::received_fd::ReceivedFd;
use crate::refusal::{BadField, Refusal};

/// What was agreed on this connection and bounds what is taken from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeContext {
    /// File descriptors that we take in one message.
    pub max_msg_fds: u32,
    /// Largest `count` that we take, in bytes.
    pub max_data_xfer_size: u32,
    /// Largest `count` that the client takes, in bytes.
    pub peer_max_data_xfer_size: u32,
    /// REGION_WRITE_MULTI was agreed.
    pub write_multiple: bool,
}

impl DecodeContext {
    /// What holds before VERSION and for a client that announced nothing.
    pub const UNSTATED: Self = Self {
        max_msg_fds: limits::MAX_MSG_FDS,
        max_data_xfer_size: limits::MAX_DATA_XFER_BYTES,
        peer_max_data_xfer_size: Capabilities::UNSTATED.max_data_xfer_size,
        write_multiple: false,
    };

    fn largest_read(&self) -> u32 {
        self.max_data_xfer_size.min(self.peer_max_data_xfer_size)
    }
}

/// A request of the client. Bulk data is borrowed from the frame.
#[derive(Debug)]
pub enum Command<'a> {
    /// VERSION.
    Version(Version),
    /// DMA_MAP.
    DmaMap(DmaMap),
    /// DMA_UNMAP.
    DmaUnmap(DmaUnmap),
    /// DEVICE_GET_INFO.
    DeviceInfo,
    /// DEVICE_GET_REGION_INFO.
    RegionInfo(RegionInfoRequest),
    /// DEVICE_GET_REGION_IO_FDS.
    RegionIoFds(IoFdsRequest),
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo(IrqIndex),
    /// DEVICE_SET_IRQS.
    SetIrqs(SetIrqs),
    /// REGION_READ.
    RegionRead(RegionAccess),
    /// REGION_WRITE.
    RegionWrite(RegionWrite<'a>),
    /// DEVICE_RESET.
    DeviceReset,
    /// REGION_WRITE_MULTI.
    RegionWriteMulti(WriteMulti<'a>),
    /// DEVICE_FEATURE.
    DeviceFeature(DeviceFeature<'a>),
    /// MIG_DATA_READ.
    MigDataRead(MigDataRead),
    /// MIG_DATA_WRITE.
    MigDataWrite(MigDataWrite<'a>),
}

impl<'a> Command<'a> {
    /// Decodes a request. Descriptors that the command does not take are closed.
    ///
    /// # Errors
    /// The refusal says what to answer. A VERSION that does not hold together ends the connection.
    pub fn decode(frame: Frame<'a>, context: &DecodeContext) -> Result<Self, Refusal> {
        let code = frame.header.command;
        Self::decode_fields(frame, context).map_err(|bad| {
            let refusal = Refusal::new(code, bad);
            if code == CommandCode::VERSION {
                refusal.closing()
            } else {
                refusal
            }
        })
    }

    fn decode_fields(frame: Frame<'a>, context: &DecodeContext) -> Result<Self, BadField> {
        let code = frame.header.command;
        let body = frame.body;
        let fds = checked_fds(frame, context)?;
        Ok(match code {
            CommandCode::VERSION => Self::Version(Version::decode_request(body)?),
            CommandCode::DMA_MAP => Self::DmaMap(DmaMap::decode_request(body, fds)?),
            CommandCode::DMA_UNMAP => Self::DmaUnmap(DmaUnmap::decode_request(body)?),
            CommandCode::DEVICE_GET_INFO => {
                device::decode_request(body)?;
                Self::DeviceInfo
            }
            CommandCode::DEVICE_GET_REGION_INFO => {
                Self::RegionInfo(RegionInfoRequest::decode(body)?)
            }
            CommandCode::DEVICE_GET_REGION_IO_FDS => Self::RegionIoFds(IoFdsRequest::decode(body)?),
            CommandCode::DEVICE_GET_IRQ_INFO => Self::IrqInfo(irq::decode_info_request(body)?),
            CommandCode::DEVICE_SET_IRQS => Self::SetIrqs(SetIrqs::decode_request(body, fds)?),
            CommandCode::DEVICE_RESET => Self::DeviceReset,
            _ => Self::decode_data(code, body, context)?,
        })
    }

    /// The commands that carry bulk data, and everything that is no command of a client.
    fn decode_data(
        code: CommandCode,
        body: &'a [u8],
        context: &DecodeContext,
    ) -> Result<Self, BadField> {
        Ok(match code {
            CommandCode::REGION_READ => {
                Self::RegionRead(RegionAccess::decode_request(body, context.largest_read())?)
            }
            CommandCode::REGION_WRITE => Self::RegionWrite(RegionWrite::decode_request(
                body,
                context.max_data_xfer_size,
            )?),
            CommandCode::REGION_WRITE_MULTI if context.write_multiple => {
                Self::RegionWriteMulti(WriteMulti::decode_request(body)?)
            }
            CommandCode::DEVICE_FEATURE => {
                Self::DeviceFeature(DeviceFeature::decode_request(body, context.largest_read())?)
            }
            CommandCode::MIG_DATA_READ => {
                Self::MigDataRead(MigDataRead::decode_request(body, context.largest_read())?)
            }
            CommandCode::MIG_DATA_WRITE => Self::MigDataWrite(MigDataWrite::decode_request(
                body,
                context.max_data_xfer_size,
            )?),
            CommandCode(other) => return Err(BadField::invalid("command", other)),
        })
    }
}

/// The descriptors of a frame, if their number is one that we announced and they came where they belong.
fn checked_fds(frame: Frame<'_>, context: &DecodeContext) -> Result<Vec<ReceivedFd>, BadField> {
    let most = usize::try_from(context.max_msg_fds).unwrap_or(usize::MAX);
    if frame.fds.len() > most {
        return Err(BadField::length(
            "number of file descriptors",
            frame.fds.len(),
        ));
    }
    let header = frame.header;
    if frame.fds_on_body && header.command.carries_fds(header.message_type()) {
        return Err(BadField::invalid(
            "file descriptors (not with the first byte)",
            0u32,
        ));
    }
    Ok(frame.fds)
}
