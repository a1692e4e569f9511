//! Requests that ask what the device is, and those of migration.

use super::Client;
use super::engine::Call;
use super::error::ClientError;
use crate::header::CommandCode;
use crate::ids::{IrqIndex, RegionIndex};
use crate::messages::device::{self, DeviceInfo};
use crate::messages::feature::{self, Feature};
use crate::messages::io_fds::{self, IoFds, IoFdsHead, IoFdsRequest};
use crate::messages::irq::{self, IrqInfo};
use crate::messages::migration::{MigDataRead, MigDataWrite};
use crate::messages::region_info::{self, RegionInfo, RegionInfoHead, RegionInfoRequest};
use crate::refusal::BadField;
use std::os::fd::OwnedFd;

impl Client {
    /// What kind of device it is.
    ///
    /// # Errors
    /// See [`ClientError`]; a device without config space, or that is not PCI, is refused.
    pub fn device_info(&self) -> Result<DeviceInfo, ClientError> {
        let mut head = Vec::new();
        device::encode_request(&mut head);
        let call = self.call(CommandCode::DEVICE_GET_INFO, &head);
        self.engine
            .call(&call, |body, _fds| DeviceInfo::decode_reply(body))
    }

    /// What a region is, and which of its areas can be mapped. Asks twice where the first answer had no room for all.
    ///
    /// # Errors
    /// See [`ClientError`]; anything that does not hold together is refused.
    pub fn region_info(&self, index: RegionIndex) -> Result<RegionInfo, ClientError> {
        /// The first answer: all there is, or how much room all of it needs.
        enum First {
            Whole(RegionInfo),
            Needs(u32),
        }
        let argsz = region_info::HEAD_BYTES;
        let first = self.ask_region_info(index, argsz, |body, fds| {
            let head = RegionInfoHead::decode(body, index)?;
            if head.argsz > argsz {
                return Ok(First::Needs(head.argsz));
            }
            RegionInfo::decode(body, index, fds).map(First::Whole)
        })?;
        let needed = match first {
            First::Whole(info) => return Ok(info),
            First::Needs(bytes) => bytes,
        };
        self.ask_region_info(index, needed, |body, fds| {
            let head = RegionInfoHead::decode(body, index)?;
            if head.argsz > needed {
                return Err(BadField::invalid("argsz (grew)", head.argsz));
            }
            RegionInfo::decode(body, index, fds)
        })
    }

    fn ask_region_info<R>(
        &self,
        index: RegionIndex,
        argsz: u32,
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let mut head = Vec::new();
        RegionInfoRequest { index, argsz }.encode(&mut head);
        let call = Call {
            takes_fds: true,
            ..self.call(CommandCode::DEVICE_GET_REGION_INFO, &head)
        };
        self.engine.call(&call, |body, fds| {
            fits(body, argsz)?;
            read(body, fds)
        })
    }

    /// Which eventfds KVM can signal instead of a write to a region of `region_size` bytes.
    ///
    /// # Errors
    /// See [`ClientError`]; anything that does not hold together is refused.
    pub fn region_io_fds(
        &self,
        index: RegionIndex,
        region_size: u64,
    ) -> Result<IoFds, ClientError> {
        let needed = self.ask_io_fds(index, io_fds::HEAD_BYTES, |body, _fds| {
            IoFdsHead::decode(body, index).map(|head| head.argsz)
        })?;
        self.ask_io_fds(index, needed, |body, fds| {
            let head = IoFdsHead::decode(body, index)?;
            if head.argsz > needed {
                return Err(BadField::invalid("argsz (grew)", head.argsz));
            }
            IoFds::decode(body, index, region_size, fds)
        })
    }

    fn ask_io_fds<R>(
        &self,
        index: RegionIndex,
        argsz: u32,
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let mut head = Vec::new();
        IoFdsRequest { index, argsz }.encode(&mut head);
        let call = Call {
            takes_fds: true,
            ..self.call(CommandCode::DEVICE_GET_REGION_IO_FDS, &head)
        };
        self.engine.call(&call, |body, fds| {
            fits(body, argsz)?;
            read(body, fds)
        })
    }

    /// What an interrupt index is.
    ///
    /// # Errors
    /// See [`ClientError`]; more vectors than that kind of interrupt can have are refused.
    pub fn irq_info(&self, index: IrqIndex) -> Result<IrqInfo, ClientError> {
        let mut head = Vec::new();
        irq::encode_info_request(index, &mut head);
        let call = self.call(CommandCode::DEVICE_GET_IRQ_INFO, &head);
        self.engine
            .call(&call, |body, _fds| IrqInfo::decode_reply(body, index))
    }

    /// Asks a DEVICE_FEATURE and returns the data of the answer, at most `data_bytes`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn device_feature(
        &self,
        feature: &Feature<'_>,
        data_bytes: u32,
    ) -> Result<Vec<u8>, ClientError> {
        let argsz = data_bytes.saturating_add(8);
        let mut head = Vec::new();
        feature.encode_request(argsz, &mut head);
        let call = self.call(CommandCode::DEVICE_FEATURE, &head);
        self.engine.call(&call, |body, _fds| {
            fits(body, argsz)?;
            feature::decode_reply(body).map(<[u8]>::to_vec)
        })
    }

    /// Reads the next piece of the device's state, at most `size` bytes; fewer are the last.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn mig_data_read(&self, size: u32) -> Result<Vec<u8>, ClientError> {
        let request = MigDataRead { size };
        let mut head = Vec::new();
        request.encode(&mut head);
        let call = self.call(CommandCode::MIG_DATA_READ, &head);
        self.engine.call(&call, |body, _fds| {
            request.decode_reply(body).map(<[u8]>::to_vec)
        })
    }

    /// Writes the next piece of the device's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn mig_data_write(&self, data: &[u8]) -> Result<(), ClientError> {
        let command = CommandCode::MIG_DATA_WRITE;
        if data.len() > self.chunk_bytes() {
            let what = "the piece is larger than the server takes";
            return Err(ClientError::Unsendable { command, what });
        }
        let mut head = Vec::new();
        MigDataWrite { data }.encode(&mut head);
        let call = self.call(command, &head);
        self.engine.call(&call, |_body, _fds| Ok(()))
    }
}

/// An answer may not be longer than the room that was announced.
fn fits(body: &[u8], argsz: u32) -> Result<(), BadField> {
    let most = usize::try_from(argsz).unwrap_or(usize::MAX);
    if body.len() > most {
        return Err(BadField::length("length of the answer", body.len()));
    }
    Ok(())
}
