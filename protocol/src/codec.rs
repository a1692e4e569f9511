//! Reading and writing of fixed-size integers in message bodies.
//!
//! Spec: all integers are in host byte order, structures are packed.
//! A `Reader` can only take from the front; it never indexes. A `Put` only appends.

/// The body ended before the value did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// Takes values from the front of a message body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.chunk().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.chunk().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.chunk().map(u64::from_ne_bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Appends values to a message.
pub(crate) trait Put {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, value: u16) {
        self.put_bytes(&value.to_ne_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put_bytes(&value.to_ne_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put_bytes(&value.to_ne_bytes());
    }
}

impl Put for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
