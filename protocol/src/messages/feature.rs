//! DEVICE_FEATURE: migration and dirty-page logging, asked by number.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_FEATURE": argsz u32, flags u32 (feature in bits 0-15, GET 16, SET 17, PROBE 18),
//! data. GET and SET exclude each other unless PROBE is set.
//! Decoded and bounded whole; no backend has any feature yet, so a server answers ENOTSUP.
//! Limits: `MAX_LOGGING_RANGES`; a report's bitmap fits `max_data_xfer_size`.

use crate::codec::{Put, Reader};
use crate::ids::{Iova, IovaRange};
use crate::limits;
use crate::refusal::BadField;

const HEAD_BYTES: u32 = 8;
const FLAG_GET: u32 = 1 << 16;
const FLAG_SET: u32 = 1 << 17;
const FLAG_PROBE: u32 = 1 << 18;

const MIGRATION: u16 = 1;
const MIG_DEVICE_STATE: u16 = 2;
const DMA_LOGGING_START: u16 = 6;
const DMA_LOGGING_STOP: u16 = 7;
const DMA_LOGGING_REPORT: u16 = 8;

/// Where a device is in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Only a reset leads out of it. A client cannot ask for it.
    Error,
    /// Stopped.
    Stop,
    /// Running.
    Running,
    /// Stopped, its state is being read.
    StopCopy,
    /// Stopped, its state is being written.
    Resuming,
    /// Running, its state is being read.
    PreCopy,
}

impl DeviceState {
    fn from_wire(state: u32) -> Option<Self> {
        Some(match state {
            0 => Self::Error,
            1 => Self::Stop,
            2 => Self::Running,
            3 => Self::StopCopy,
            4 => Self::Resuming,
            6 => Self::PreCopy,
            _ => return None,
        })
    }

    fn to_wire(self) -> u32 {
        match self {
            Self::Error => 0,
            Self::Stop => 1,
            Self::Running => 2,
            Self::StopCopy => 3,
            Self::Resuming => 4,
            Self::PreCopy => 6,
        }
    }
}

/// What is asked of which feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature<'a> {
    /// Does the feature support these operations?
    Probe {
        /// Feature number; may be unknown.
        feature: u16,
        /// Asked for reading.
        get: bool,
        /// Asked for writing.
        set: bool,
    },
    /// Which kinds of migration there are.
    GetMigration,
    /// Which state the device is in.
    GetState,
    /// Bring the device into a state; not `Error`.
    SetState(DeviceState),
    /// Log which pages the device writes.
    StartLogging {
        /// Bytes of a page, a power of two.
        page_size: u64,
        /// Where; everywhere when empty.
        ranges: LoggingRanges<'a>,
    },
    /// Stop logging.
    StopLogging,
    /// Which pages were written.
    ReportLogging {
        /// Where.
        range: IovaRange,
        /// Bytes of a page, a power of two.
        page_size: u64,
    },
}

/// A DEVICE_FEATURE request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFeature<'a> {
    /// Largest reply payload that the client takes; enough for the answer to this request.
    pub argsz: u32,
    /// What is asked.
    pub feature: Feature<'a>,
}

/// The ranges of DMA_LOGGING_START, all well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggingRanges<'a> {
    bytes: &'a [u8],
}

impl<'a> LoggingRanges<'a> {
    const RANGE_BYTES: usize = 16;

    /// No ranges: log everywhere.
    pub const EVERYWHERE: Self = Self { bytes: &[] };

    /// The ranges in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = IovaRange> + use<'a> {
        self.bytes
            .chunks_exact(Self::RANGE_BYTES)
            .filter_map(|bytes| decode_range(&mut Reader::new(bytes)).ok())
    }

    fn decode(reader: &mut Reader<'a>, count: u32) -> Result<Self, BadField> {
        let bad = BadField::invalid("num_ranges", count);
        if count > limits::MAX_LOGGING_RANGES {
            return Err(bad);
        }
        let bytes = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(Self::RANGE_BYTES))
            .ok_or(bad)?;
        let bytes = reader.bytes(bytes).map_err(|_| bad)?;
        for range in bytes.chunks_exact(Self::RANGE_BYTES) {
            decode_range(&mut Reader::new(range))?;
        }
        Ok(Self { bytes })
    }
}

impl<'a> DeviceFeature<'a> {
    /// Reads a request. A report's bitmap may have `max_bytes` at most.
    ///
    /// # Errors
    /// Anything in it does not hold together, the feature is unknown, or it lacks the operation.
    pub fn decode_request(body: &'a [u8], max_bytes: u32) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let bad_flags = BadField::invalid("flags", flags);
        let [low, high, _, _] = flags.to_le_bytes();
        let number = u16::from_le_bytes([low, high]);
        let (get, set) = (flags & FLAG_GET != 0, flags & FLAG_SET != 0);
        let known = u32::from(u16::MAX) | FLAG_GET | FLAG_SET | FLAG_PROBE;
        if flags & !known != 0 || !(get || set) {
            return Err(bad_flags);
        }
        let feature = match (flags & FLAG_PROBE != 0, get, set) {
            (true, _, _) => Feature::Probe {
                feature: number,
                get,
                set,
            },
            (false, true, false) => decode_get(number, &mut reader, bad_flags)?,
            (false, false, true) => decode_set(number, &mut reader, bad_flags)?,
            (false, _, _) => return Err(bad_flags),
        };
        let needed = feature.reply_bytes();
        if u64::from(argsz) < needed {
            return Err(BadField::invalid("argsz", argsz));
        }
        if needed > u64::from(max_bytes) {
            return Err(BadField::invalid("length", needed));
        }
        Ok(Self { argsz, feature })
    }
}

fn decode_get<'a>(
    number: u16,
    reader: &mut Reader<'_>,
    bad_flags: BadField,
) -> Result<Feature<'a>, BadField> {
    match number {
        MIGRATION => Ok(Feature::GetMigration),
        MIG_DEVICE_STATE => Ok(Feature::GetState),
        DMA_LOGGING_REPORT => {
            let range = decode_range(reader)?;
            let page_size = page_size(reader.u64()?)?;
            Ok(Feature::ReportLogging { range, page_size })
        }
        _ => Err(bad_flags),
    }
}

fn decode_set<'a>(
    number: u16,
    reader: &mut Reader<'a>,
    bad_flags: BadField,
) -> Result<Feature<'a>, BadField> {
    match number {
        MIG_DEVICE_STATE => {
            let (state, _data_fd) = (reader.u32()?, reader.u32()?);
            DeviceState::from_wire(state)
                .filter(|state| *state != DeviceState::Error)
                .map(Feature::SetState)
                .ok_or(BadField::invalid("device state", state))
        }
        DMA_LOGGING_START => {
            let page_size = page_size(reader.u64()?)?;
            let (count, _reserved) = (reader.u32()?, reader.u32()?);
            let ranges = LoggingRanges::decode(reader, count)?;
            Ok(Feature::StartLogging { page_size, ranges })
        }
        DMA_LOGGING_STOP => Ok(Feature::StopLogging),
        _ => Err(bad_flags),
    }
}

fn decode_range(reader: &mut Reader<'_>) -> Result<IovaRange, BadField> {
    let (iova, length) = (reader.u64()?, reader.u64()?);
    IovaRange::new(Iova(iova), length).map_err(|_| BadField::invalid("length", length))
}

fn page_size(bytes: u64) -> Result<u64, BadField> {
    if bytes.is_power_of_two() && (limits::PAGE_BYTES..=limits::MAX_DMA_MAP_BYTES).contains(&bytes)
    {
        return Ok(bytes);
    }
    Err(BadField::invalid("page_size", bytes))
}

impl Feature<'_> {
    /// Bytes of the answer's payload.
    fn reply_bytes(&self) -> u64 {
        let data: u64 = match self {
            Self::Probe { .. } | Self::StopLogging => 0,
            Self::GetMigration | Self::GetState | Self::SetState(_) => 8,
            Self::StartLogging { ranges, .. } => {
                u64::try_from(ranges.bytes.len()).unwrap_or(u64::MAX)
            }
            Self::ReportLogging { range, page_size } => {
                let words = range
                    .len()
                    .div_ceil(*page_size)
                    .div_ceil(u64::from(u64::BITS));
                words.saturating_mul(8).saturating_add(24)
            }
        };
        data.saturating_add(u64::from(HEAD_BYTES))
    }

    /// The flags of the request, which the answer repeats.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let get = |number: u16| FLAG_GET | u32::from(number);
        let set = |number: u16| FLAG_SET | u32::from(number);
        match self {
            Self::Probe {
                feature,
                get: asks_get,
                set: asks_set,
            } => {
                let get = if *asks_get { FLAG_GET } else { 0 };
                let set = if *asks_set { FLAG_SET } else { 0 };
                u32::from(*feature) | FLAG_PROBE | get | set
            }
            Self::GetMigration => get(MIGRATION),
            Self::GetState => get(MIG_DEVICE_STATE),
            Self::SetState(_) => set(MIG_DEVICE_STATE),
            Self::StartLogging { .. } => set(DMA_LOGGING_START),
            Self::StopLogging => set(DMA_LOGGING_STOP),
            Self::ReportLogging { .. } => get(DMA_LOGGING_REPORT),
        }
    }

    /// Appends a request.
    pub fn encode_request(&self, argsz: u32, out: &mut Vec<u8>) {
        out.put_u32(argsz);
        out.put_u32(self.flags());
        match self {
            Self::Probe { .. } | Self::GetMigration | Self::GetState | Self::StopLogging => {}
            Self::SetState(state) => {
                out.put_u32(state.to_wire());
                out.put_u32(0);
            }
            Self::StartLogging { page_size, ranges } => {
                let count = ranges.bytes.len() / LoggingRanges::RANGE_BYTES;
                out.put_u64(*page_size);
                out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
                out.put_u32(0);
                out.put_bytes(ranges.bytes);
            }
            Self::ReportLogging { range, page_size } => {
                out.put_u64(range.start().0);
                out.put_u64(range.len());
                out.put_u64(*page_size);
            }
        }
    }
}

/// Appends an answer: the request's flags and the data of a GET, or what was set.
pub fn encode_reply(flags: u32, data: &[u8], out: &mut Vec<u8>) {
    let data_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.put_u32(HEAD_BYTES.saturating_add(data_bytes));
    out.put_u32(flags);
    out.put_bytes(data);
}

/// Reads a server's answer and returns its data.
///
/// # Errors
/// It is short.
pub fn decode_reply(body: &[u8]) -> Result<&[u8], BadField> {
    let mut reader = Reader::new(body);
    reader.bytes(HEAD_BYTES as usize)?;
    Ok(reader.rest())
}
