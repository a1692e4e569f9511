//! A client's memory for what a server asks by messages.

use protocol::{DmaHandler, Errno, Iova};

/// Memory that is all zeroes, at every address.
pub struct Zeroes;

impl DmaHandler for Zeroes {
    fn read(&self, _: Iova, data: &mut [u8]) -> Result<(), Errno> {
        data.fill(0);
        Ok(())
    }

    fn write(&self, _: Iova, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
}
