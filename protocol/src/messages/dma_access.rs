//! DMA_READ and DMA_WRITE: the server reaches memory of the client that it cannot map.
//!
//! Spec: vfio-user, "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE": address u64, count u64, data. The reply repeats the
//! head with a 64-bit count for both commands (the spec's table has 32 bits in the write reply; no peer does that).
//! Limits: `count` is at most the receiver's `max_data_xfer_size`, and a write's data is exactly `count` bytes.

use crate::codec::{Put, Reader};
use crate::header::CommandCode;
use crate::ids::Iova;
use crate::refusal::BadField;

/// A request of the server, the only kind that a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaRequest<'a> {
    /// DMA_READ.
    Read {
        /// First address.
        address: Iova,
        /// Bytes.
        count: u32,
    },
    /// DMA_WRITE.
    Write {
        /// First address.
        address: Iova,
        /// What to write.
        data: &'a [u8],
    },
}

impl<'a> DmaRequest<'a> {
    /// Reads a request of the server.
    ///
    /// # Errors
    /// It is another command, short, `count` is above `max_bytes`, the data is not `count` bytes, or the range wraps.
    pub fn decode(command: CommandCode, body: &'a [u8], max_bytes: u32) -> Result<Self, BadField> {
        if command != CommandCode::DMA_READ && command != CommandCode::DMA_WRITE {
            return Err(BadField::invalid("command", command.0));
        }
        let mut reader = Reader::new(body);
        let (address, count) = (reader.u64()?, reader.u64()?);
        let data = reader.rest();
        let bad_count = BadField::invalid("count", count);
        let bytes = u32::try_from(count).map_err(|_| bad_count)?;
        if bytes > max_bytes {
            return Err(bad_count);
        }
        if address.checked_add(count).is_none() {
            return Err(BadField::invalid("address", address));
        }
        let address = Iova(address);
        if command == CommandCode::DMA_READ {
            return Ok(Self::Read {
                address,
                count: bytes,
            });
        }
        if usize::try_from(bytes) != Ok(data.len()) {
            return Err(bad_count);
        }
        Ok(Self::Write { address, data })
    }
}

/// Appends the 16 bytes in front of the data: of both requests and of both replies.
pub fn encode_head(address: Iova, count: u64, out: &mut Vec<u8>) {
    out.put_u64(address.0);
    out.put_u64(count);
}

/// Reads the client's answer to a DMA_READ of `count` bytes.
///
/// # Errors
/// It is about another range, or its data is not `count` bytes.
pub fn decode_read_reply(body: &[u8], address: Iova, count: usize) -> Result<&[u8], BadField> {
    let mut reader = Reader::new(body);
    check_head(&mut reader, address, count)?;
    let data = reader.rest();
    if data.len() != count {
        return Err(BadField::length("length of the data", data.len()));
    }
    Ok(data)
}

/// Reads the client's answer to a DMA_WRITE of `count` bytes.
///
/// # Errors
/// It is short or about another range.
pub fn decode_write_reply(body: &[u8], address: Iova, count: usize) -> Result<(), BadField> {
    check_head(&mut Reader::new(body), address, count)
}

fn check_head(reader: &mut Reader<'_>, address: Iova, count: usize) -> Result<(), BadField> {
    let (answered, done) = (reader.u64()?, reader.u64()?);
    if answered != address.0 {
        return Err(BadField::invalid("address", answered));
    }
    if usize::try_from(done) != Ok(count) {
        return Err(BadField::invalid("count", done));
    }
    Ok(())
}
