//! REGION_READ and REGION_WRITE: access to a region by message.
//!
//! Spec: vfio-user, "VFIO_USER_REGION_READ", "VFIO_USER_REGION_WRITE": offset u64, region u32, count u32, data.
//! The reply repeats the head. What the region allows is the server's to check.
//! Limits: `count` is at most the receiver's `max_data_xfer_size`, and a write's data is exactly `count` bytes.

use crate::codec::{Put, Reader};
use crate::ids::RegionIndex;
use crate::refusal::BadField;

/// Bytes of a [`RegionAccess`].
pub const ACCESS_BYTES: usize = 16;

bitflags::bitflags! {
    /// What can be done with a region.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegionFlags: u32 {
        /// REGION_READ works.
        const READ = 1;
        /// REGION_WRITE works.
        const WRITE = 2;
        /// Some or all of it can be mapped.
        const MMAP = 4;
        /// The info carries capabilities.
        const CAPS = 8;
    }
}

/// Where a read or write goes, and how far it reaches: a REGION_READ, or the head of every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionAccess {
    /// Which region.
    pub region: RegionIndex,
    /// First byte inside the region.
    pub offset: u64,
    /// Bytes.
    pub count: u32,
}

/// A REGION_WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionWrite<'a> {
    /// Which region.
    pub region: RegionIndex,
    /// First byte inside the region.
    pub offset: u64,
    /// What to write.
    pub data: &'a [u8],
}

impl RegionAccess {
    /// The 16 bytes: request of a read and head of every other message of the two commands.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ACCESS_BYTES] {
        let [o0, o1, o2, o3, o4, o5, o6, o7] = self.offset.to_ne_bytes();
        let [r0, r1, r2, r3] = self.region.0.to_ne_bytes();
        let [c0, c1, c2, c3] = self.count.to_ne_bytes();
        [
            o0, o1, o2, o3, o4, o5, o6, o7, r0, r1, r2, r3, c0, c1, c2, c3,
        ]
    }

    /// Appends the same.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BadField> {
        let offset = reader.u64()?;
        Ok(Self {
            region: RegionIndex(reader.u32()?),
            offset,
            count: reader.u32()?,
        })
    }

    /// Reads a REGION_READ request.
    ///
    /// # Errors
    /// The payload is short or `count` is above `max_bytes`.
    pub fn decode_request(body: &[u8], max_bytes: u32) -> Result<Self, BadField> {
        let access = Self::decode(&mut Reader::new(body))?;
        if access.count > max_bytes {
            return Err(BadField::invalid("count", access.count));
        }
        Ok(access)
    }

    /// Reads the answer to this read: its data, as many bytes as were asked.
    ///
    /// # Errors
    /// It is short, about something else, or its data is not `count` bytes. An empty answer counts as one of 0 bytes
    /// when 0 were asked.
    pub fn decode_read_reply<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], BadField> {
        if body.is_empty() && self.count == 0 {
            return Ok(body);
        }
        let mut reader = Reader::new(body);
        self.check(Self::decode(&mut reader)?)?;
        let data = reader.rest();
        if usize::try_from(self.count) != Ok(data.len()) {
            return Err(BadField::length("length of the data", data.len()));
        }
        Ok(data)
    }

    /// Reads the answer to this write.
    ///
    /// # Errors
    /// It is short or about something else. An empty answer counts as one of 0 bytes when 0 were asked.
    pub fn check_write_reply(&self, body: &[u8]) -> Result<(), BadField> {
        if body.is_empty() && self.count == 0 {
            return Ok(());
        }
        self.check(Self::decode(&mut Reader::new(body))?)
    }

    fn check(&self, answered: Self) -> Result<(), BadField> {
        if answered.count != self.count {
            return Err(BadField::invalid("count", answered.count));
        }
        if answered.offset != self.offset {
            return Err(BadField::invalid("offset", answered.offset));
        }
        if answered.region != self.region {
            return Err(BadField::invalid("region", answered.region.0));
        }
        Ok(())
    }
}

impl<'a> RegionWrite<'a> {
    /// Reads a REGION_WRITE request.
    ///
    /// # Errors
    /// The payload is short, `count` is above `max_bytes`, or the data is not `count` bytes.
    pub fn decode_request(body: &'a [u8], max_bytes: u32) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let head = RegionAccess::decode(&mut reader)?;
        let data = reader.rest();
        if head.count > max_bytes || usize::try_from(head.count) != Ok(data.len()) {
            return Err(BadField::invalid("count", head.count));
        }
        Ok(Self {
            region: head.region,
            offset: head.offset,
            data,
        })
    }
}
