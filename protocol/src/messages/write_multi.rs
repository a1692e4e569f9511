//! REGION_WRITE_MULTI: many small register writes in one message.
//!
//! Spec: vfio-user, "VFIO_USER_REGION_WRITE_MULTI": wr_cnt u64, then per write offset u64, region u32, count u32 and
//! 8 bytes of data. The reply is the number of writes done.
//! Only when `write_multiple` was agreed. Limits: `MAX_WRITE_MULTI_BYTES` per write; the message bounds their number.

use crate::codec::{Put, Reader};
use crate::ids::RegionIndex;
use crate::limits::MAX_WRITE_MULTI_BYTES;
use crate::refusal::BadField;

const ENTRY_BYTES: usize = 24;

/// A REGION_WRITE_MULTI whose entries are all well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMulti<'a> {
    entries: &'a [u8],
}

/// One write of a [`WriteMulti`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMultiEntry<'a> {
    /// Which region.
    pub region: RegionIndex,
    /// First byte inside the region.
    pub offset: u64,
    /// At most 8 bytes.
    pub data: &'a [u8],
}

impl<'a> WriteMulti<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// There are fewer entries than it says, or one has more than 8 bytes. Nothing may be written then.
    pub fn decode_request(body: &'a [u8]) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let count = reader.u64()?;
        let bad_count = BadField::invalid("wr_cnt", count);
        let bytes = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(ENTRY_BYTES))
            .ok_or(bad_count)?;
        let entries = reader.bytes(bytes).map_err(|_| bad_count)?;
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            decode_entry(entry)?;
        }
        Ok(Self { entries })
    }

    /// The writes, in the order in which they are to be done.
    pub fn entries(&self) -> impl Iterator<Item = WriteMultiEntry<'a>> + use<'a> {
        self.entries
            .chunks_exact(ENTRY_BYTES)
            .filter_map(|entry| decode_entry(entry).ok())
    }
}

fn decode_entry(entry: &[u8]) -> Result<WriteMultiEntry<'_>, BadField> {
    let mut reader = Reader::new(entry);
    let offset = reader.u64()?;
    let region = RegionIndex(reader.u32()?);
    let count = reader.u32()?;
    if count > MAX_WRITE_MULTI_BYTES {
        return Err(BadField::invalid("count of an entry", count));
    }
    let bad = BadField::invalid("count of an entry", count);
    let data = reader.bytes(usize::try_from(count).map_err(|_| bad)?)?;
    Ok(WriteMultiEntry {
        region,
        offset,
        data,
    })
}

/// Appends a request.
///
/// # Errors
/// An entry has more than 8 bytes.
pub fn encode_request(entries: &[WriteMultiEntry<'_>], out: &mut Vec<u8>) -> Result<(), BadField> {
    out.put_u64(u64::try_from(entries.len()).unwrap_or(u64::MAX));
    for entry in entries {
        let mut padded = [0; MAX_WRITE_MULTI_BYTES as usize];
        let Some(room) = padded.get_mut(..entry.data.len()) else {
            return Err(BadField::length("count of an entry", entry.data.len()));
        };
        room.copy_from_slice(entry.data);
        out.put_u64(entry.offset);
        out.put_u32(entry.region.0);
        out.put_u32(u32::try_from(entry.data.len()).unwrap_or(u32::MAX));
        out.put_bytes(&padded);
    }
    Ok(())
}

/// Appends a reply: how many writes were done.
pub fn encode_reply(done: u64, out: &mut Vec<u8>) {
    out.put_u64(done);
}

/// Reads a server's answer to `asked` writes.
///
/// # Errors
/// It is short or says that more were done than asked.
pub fn decode_reply(body: &[u8], asked: usize) -> Result<u64, BadField> {
    let done = Reader::new(body).u64()?;
    if usize::try_from(done).is_ok_and(|done| done <= asked) {
        return Ok(done);
    }
    Err(BadField::invalid("wr_cnt", done))
}
