//! DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS: which interrupts there are, and where they go.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_IRQ_INFO": argsz u32, flags u32, index u32, count u32, both ways.
//! "VFIO_USER_DEVICE_SET_IRQS": argsz u32, flags u32, index u32, start u32, count u32, one byte per interrupt for BOOL.
//! Whether a vector exists is the server's to check; here everything that holds for every device.
//! Limits: `start + count` is at most `MAX_MSIX_VECTORS`; ERR and REQ have one vector and cannot be masked.

use crate::codec::{Put, Reader};
use crate::ids::IrqIndex;
use crate::limits;
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;

const INFO_BYTES: u32 = 16;
const SET_HEAD_BYTES: u32 = 20;

const DATA_NONE: u32 = 1;
const DATA_BOOL: u32 = 2;
const DATA_EVENTFD: u32 = 4;
const ACTION_MASK: u32 = 8;
const ACTION_UNMASK: u32 = 16;
const ACTION_TRIGGER: u32 = 32;
const DATA_BITS: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;

bitflags::bitflags! {
    /// What can be done with an interrupt index.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IrqInfoFlags: u32 {
        /// It signals through eventfds.
        const EVENTFD = 1;
        /// It can be masked.
        const MASKABLE = 2;
        /// It masks itself when it fires.
        const AUTOMASKED = 4;
        /// Vectors cannot be added once some are enabled.
        const NORESIZE = 8;
    }
}

/// What a server says of an interrupt index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// Which index.
    pub index: IrqIndex,
    /// What can be done with it.
    pub flags: IrqInfoFlags,
    /// Vectors; 0 when the device has none of this kind.
    pub count: u32,
}

/// What to do with the interrupts of a [`SetIrqs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// Keep them from firing.
    Mask,
    /// Let them fire again.
    Unmask,
    /// Fire them now, or say which eventfd fires.
    Trigger,
}

/// The interrupts that a [`SetIrqs`] means.
#[derive(Debug)]
pub enum IrqData {
    /// All of the range.
    None,
    /// Those of the range that are true.
    Bool(Vec<bool>),
    /// One eventfd for each of the range; an empty list takes the eventfds of the range away.
    Eventfd(Vec<ReceivedFd>),
}

/// A DEVICE_SET_IRQS. The whole index is disabled by Trigger and None with start 0 and count 0.
#[derive(Debug)]
pub struct SetIrqs {
    /// Which index; one of the five of PCI.
    pub index: IrqIndex,
    /// First vector.
    pub start: u32,
    /// Vectors.
    pub count: u32,
    /// What to do.
    pub action: IrqAction,
    /// With which of them.
    pub data: IrqData,
}

impl SetIrqs {
    /// True for the form that disables the whole index.
    #[must_use]
    pub fn disables_index(&self) -> bool {
        self.count == 0
    }

    /// Reads a request.
    ///
    /// # Errors
    /// Anything in it does not hold together. `fds` are closed then.
    pub fn decode_request(body: &[u8], fds: Vec<ReceivedFd>) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let index = IrqIndex(reader.u32()?);
        let (start, count) = (reader.u32()?, reader.u32()?);
        if argsz < SET_HEAD_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        if index.0 >= limits::PCI_IRQ_INDEXES {
            return Err(BadField::invalid("index", index.0));
        }
        let (action, data_type) = split_flags(flags)?;
        check_range(index, action, start, count)?;
        let disable = action == IrqAction::Trigger && data_type == DATA_NONE && start == 0;
        if count == 0 && !disable {
            return Err(BadField::invalid("count", count));
        }
        if data_type != DATA_EVENTFD && !fds.is_empty() {
            return Err(BadField::length("number of file descriptors", fds.len()));
        }
        let data = match data_type {
            DATA_BOOL => IrqData::Bool(bools(reader.rest(), count)?),
            DATA_EVENTFD => IrqData::Eventfd(eventfds(fds, count)?),
            _ => IrqData::None,
        };
        Ok(Self {
            index,
            start,
            count,
            action,
            data,
        })
    }

    /// Appends the request; the eventfds go beside it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.data {
            IrqData::None => self.encode_head(DATA_NONE, 0, out),
            IrqData::Eventfd(_) => self.encode_head(DATA_EVENTFD, 0, out),
            IrqData::Bool(bools) => {
                let bytes = u32::try_from(bools.len()).unwrap_or(u32::MAX);
                self.encode_head(DATA_BOOL, bytes, out);
                out.extend(bools.iter().map(|fire| u8::from(*fire)));
            }
        }
    }

    fn encode_head(&self, data_type: u32, data_bytes: u32, out: &mut Vec<u8>) {
        let action = match self.action {
            IrqAction::Mask => ACTION_MASK,
            IrqAction::Unmask => ACTION_UNMASK,
            IrqAction::Trigger => ACTION_TRIGGER,
        };
        out.put_u32(SET_HEAD_BYTES.saturating_add(data_bytes));
        out.put_u32(data_type | action);
        out.put_u32(self.index.0);
        out.put_u32(self.start);
        out.put_u32(self.count);
    }
}

/// Exactly one action and exactly one kind of data; nothing else.
fn split_flags(flags: u32) -> Result<(IrqAction, u32), BadField> {
    let data_type = flags & DATA_BITS;
    let action = match flags & !DATA_BITS {
        ACTION_MASK => IrqAction::Mask,
        ACTION_UNMASK => IrqAction::Unmask,
        ACTION_TRIGGER => IrqAction::Trigger,
        _ => return Err(BadField::invalid("flags", flags)),
    };
    if !data_type.is_power_of_two() {
        return Err(BadField::invalid("flags", flags));
    }
    Ok((action, data_type))
}

fn check_range(index: IrqIndex, action: IrqAction, start: u32, count: u32) -> Result<(), BadField> {
    let single = index == IrqIndex::ERR || index == IrqIndex::REQ;
    if single && action != IrqAction::Trigger {
        return Err(BadField::invalid("flags (index cannot be masked)", index.0));
    }
    let most = most_vectors(index).unwrap_or(limits::MAX_MSIX_VECTORS);
    match start.checked_add(count) {
        Some(end) if end <= most => Ok(()),
        Some(_) | None => Err(BadField::invalid("start + count", {
            u64::from(start).saturating_add(u64::from(count))
        })),
    }
}

/// Most vectors that an index of PCI can have; `None` for one that PCI does not define.
fn most_vectors(index: IrqIndex) -> Option<u32> {
    match index {
        IrqIndex::INTX | IrqIndex::ERR | IrqIndex::REQ => Some(1),
        IrqIndex::MSI => Some(limits::MAX_MSI_VECTORS),
        IrqIndex::MSIX => Some(limits::MAX_MSIX_VECTORS),
        IrqIndex(_) => None,
    }
}

/// Every byte that is not 0 is true, as in the kernel.
fn bools(bytes: &[u8], count: u32) -> Result<Vec<bool>, BadField> {
    if usize::try_from(count) != Ok(bytes.len()) {
        return Err(BadField::length("number of bools", bytes.len()));
    }
    Ok(bytes.iter().map(|byte| *byte != 0).collect())
}

fn eventfds(fds: Vec<ReceivedFd>, count: u32) -> Result<Vec<ReceivedFd>, BadField> {
    if !fds.is_empty() && usize::try_from(count) != Ok(fds.len()) {
        return Err(BadField::length("number of file descriptors", fds.len()));
    }
    Ok(fds)
}

/// Reads a DEVICE_GET_IRQ_INFO request; the index may be beyond the device's.
///
/// # Errors
/// The payload or `argsz` is below 16 bytes.
pub fn decode_info_request(body: &[u8]) -> Result<IrqIndex, BadField> {
    let raw = RawInfo::decode(body)?;
    Ok(IrqIndex(raw.index))
}

/// Appends a DEVICE_GET_IRQ_INFO request.
pub fn encode_info_request(index: IrqIndex, out: &mut Vec<u8>) {
    let raw = vfio_user::IrqInfo {
        index: index.0,
        flags: 0,
        count: 0,
    };
    RawInfo(raw).encode(out);
}

impl IrqInfo {
    /// Appends the reply.
    pub fn encode_reply(&self, out: &mut Vec<u8>) {
        let raw = vfio_user::IrqInfo {
            index: self.index.0,
            flags: self.flags.bits(),
            count: self.count,
        };
        RawInfo(raw).encode(out);
    }

    /// Reads a server's answer about `index`.
    ///
    /// # Errors
    /// It is short, about another index, or has more vectors than that kind of interrupt can have.
    pub fn decode_reply(body: &[u8], index: IrqIndex) -> Result<Self, BadField> {
        let raw = RawInfo::decode(body)?;
        if raw.index != index.0 {
            return Err(BadField::invalid("index", raw.index));
        }
        if raw.count > most_vectors(index).unwrap_or(limits::MAX_MSIX_VECTORS) {
            return Err(BadField::invalid("count", raw.count));
        }
        Ok(Self {
            index,
            flags: IrqInfoFlags::from_bits_truncate(raw.flags),
            count: raw.count,
        })
    }
}

/// The wire form, held in the `vfio_user` crate's plain triple.
struct RawInfo(vfio_user::IrqInfo);

impl RawInfo {
    fn decode(body: &[u8]) -> Result<vfio_user::IrqInfo, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (index, count) = (reader.u32()?, reader.u32()?);
        if argsz < INFO_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        Ok(vfio_user::IrqInfo {
            index,
            flags,
            count,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(INFO_BYTES);
        out.put_u32(self.0.flags);
        out.put_u32(self.0.index);
        out.put_u32(self.0.count);
    }
}
