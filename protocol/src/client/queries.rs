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
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;

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
        let argsz = region_info::HEAD_BYTES;
        let first = self.ask_region_info(index, argsz, |body, fds| {
            FirstAnswer::decode(body, index, fds)
        })?;
        self.whole_region_info(index, first)
    }

    /// The same of several regions, in their order. All questions are sent before the first answer is waited for.
    ///
    /// # Errors
    /// As [`Self::region_info`], with the region that it is about.
    pub fn region_infos(
        &self,
        indexes: &[RegionIndex],
    ) -> Result<Vec<RegionInfo>, (RegionIndex, ClientError)> {
        let argsz = region_info::HEAD_BYTES;
        let encode = |index: &RegionIndex| region_request(*index, argsz);
        let heads: Vec<Vec<u8>> = indexes.iter().map(encode).collect();
        let calls: Vec<Call<'_>> = heads
            .iter()
            .map(|head| Call {
                ..self.call(CommandCode::DEVICE_GET_REGION_INFO, head)
            })
            .collect();
        let about = |number: usize| indexes.get(number).copied().unwrap_or(RegionIndex::BAR0);
        let first = self.engine.call_each(&calls, |number, body, fds| {
            fits(body, argsz)?;
            FirstAnswer::decode(body, about(number), fds)
        });
        let first = first.map_err(|(number, error)| (about(number), error))?;
        let whole = |(index, first): (&RegionIndex, FirstAnswer)| {
            let info = self.whole_region_info(*index, first);
            info.map_err(|error| (*index, error))
        };
        indexes.iter().zip(first).map(whole).collect()
    }

    fn whole_region_info(
        &self,
        index: RegionIndex,
        first: FirstAnswer,
    ) -> Result<RegionInfo, ClientError> {
        let needed = match first {
            FirstAnswer::Whole(info) => return Ok(info),
            FirstAnswer::Needs(bytes) => bytes,
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
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let head = region_request(index, argsz);
        let call = Call {
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
        // That was all of an answer without any.
        if needed == io_fds::HEAD_BYTES {
            return Ok(IoFds::default());
        }
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
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let mut head = Vec::new();
        IoFdsRequest { index, argsz }.encode(&mut head);
        let call = Call {
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

    /// The same of several, in their order. All questions are sent before the first answer is waited for.
    ///
    /// # Errors
    /// As [`Self::irq_info`], with the index that it is about.
    pub fn irq_infos(&self, indexes: &[IrqIndex]) -> Result<Vec<IrqInfo>, (IrqIndex, ClientError)> {
        let encode = |index: &IrqIndex| {
            let mut head = Vec::new();
            irq::encode_info_request(*index, &mut head);
            head
        };
        let heads: Vec<Vec<u8>> = indexes.iter().map(encode).collect();
        let call = |head| self.call(CommandCode::DEVICE_GET_IRQ_INFO, head);
        let calls: Vec<Call<'_>> = heads.iter().map(|head| call(head)).collect();
        let about = |number: usize| indexes.get(number).copied().unwrap_or(IrqIndex::INTX);
        let answers = self.engine.call_each(&calls, |number, body, _fds| {
            IrqInfo::decode_reply(body, about(number))
        });
        answers.map_err(|(number, error)| (about(number), error))
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

/// The first answer about a region: all there is, or how much room all of it needs.
enum FirstAnswer {
    Whole(RegionInfo),
    Needs(u32),
}

impl FirstAnswer {
    fn decode(body: &[u8], index: RegionIndex, fds: Vec<ReceivedFd>) -> Result<Self, BadField> {
        let head = RegionInfoHead::decode(body, index)?;
        if head.argsz > region_info::HEAD_BYTES {
            return Ok(FirstAnswer::Needs(head.argsz));
        }
        RegionInfo::decode(body, index, fds).map(FirstAnswer::Whole)
    }
}

fn region_request(index: RegionIndex, argsz: u32) -> Vec<u8> {
    let mut head = Vec::new();
    RegionInfoRequest { index, argsz }.encode(&mut head);
    head
}

/// An answer may not be longer than the room that was announced.
fn fits(body: &[u8], argsz: u32) -> Result<(), BadField> {
    let most = usize::try_from(argsz).unwrap_or(usize::MAX);
    if body.len() > most {
        return Err(BadField::length("length of the answer", body.len()));
    }
    Ok(())
}
