//! MIG_DATA_READ and MIG_DATA_WRITE: the state of a device, in pieces.
//!
//! Spec: vfio-user, "VFIO_USER_MIG_DATA_READ", "VFIO_USER_MIG_DATA_WRITE": argsz u32, size u32, data.
//! Decoded and bounded whole; no backend can migrate yet, so a server answers ENOTSUP.
//! Limits: `size` is at most the receiver's `max_data_xfer_size`.

use crate::codec::{Put, Reader};
use crate::refusal::BadField;

const HEAD_BYTES: u32 = 8;

/// A MIG_DATA_READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigDataRead {
    /// Bytes asked for; the answer fits the client's `argsz`.
    pub size: u32,
}

/// A MIG_DATA_WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigDataWrite<'a> {
    /// The next piece.
    pub data: &'a [u8],
}

impl MigDataRead {
    /// Reads a request.
    ///
    /// # Errors
    /// It is short, `size` is above `max_bytes`, or `argsz` has no room for the answer.
    pub fn decode_request(body: &[u8], max_bytes: u32) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, size) = (reader.u32()?, reader.u32()?);
        if size > max_bytes {
            return Err(BadField::invalid("size", size));
        }
        if argsz < size.saturating_add(HEAD_BYTES) {
            return Err(BadField::invalid("argsz", argsz));
        }
        Ok(Self { size })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.size.saturating_add(HEAD_BYTES));
        out.put_u32(self.size);
    }

    /// Appends the head of the answer; the data follows.
    pub fn encode_reply_head(data_bytes: u32, out: &mut Vec<u8>) {
        out.put_u32(data_bytes.saturating_add(HEAD_BYTES));
        out.put_u32(data_bytes);
    }

    /// Reads a server's answer: `size` counts, the message may be longer.
    ///
    /// # Errors
    /// It is short, or has more than was asked.
    pub fn decode_reply<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], BadField> {
        let mut reader = Reader::new(body);
        let (_argsz, size) = (reader.u32()?, reader.u32()?);
        let bad = BadField::invalid("size", size);
        if size > self.size {
            return Err(bad);
        }
        Ok(reader.bytes(usize::try_from(size).map_err(|_| bad)?)?)
    }
}

impl<'a> MigDataWrite<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// It is short, or `size` is above `max_bytes` or above what follows.
    pub fn decode_request(body: &'a [u8], max_bytes: u32) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, size) = (reader.u32()?, reader.u32()?);
        let bad = BadField::invalid("size", size);
        if size > max_bytes {
            return Err(bad);
        }
        if argsz < HEAD_BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        let data = reader.bytes(usize::try_from(size).map_err(|_| bad)?);
        Ok(Self {
            data: data.map_err(|_| bad)?,
        })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let size = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        out.put_u32(size.saturating_add(HEAD_BYTES));
        out.put_u32(size);
        out.put_bytes(self.data);
    }
}
