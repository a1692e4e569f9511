//! DEVICE_GET_INFO: what kind of device this is and how many regions and interrupt indexes it has.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_INFO": argsz u32, flags u32, num_regions u32, num_irqs u32, both ways.
//! Limits for a client: `MAX_REGIONS`, `MAX_IRQ_INDEXES`; only PCI devices exist.

use crate::codec::{Put, Reader};
use crate::limits;
use crate::refusal::BadField;

const BYTES: u32 = 16;
const FLAG_RESET: u32 = 1;
const FLAG_PCI: u32 = 2;

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// DEVICE_RESET works.
    pub reset: bool,
    /// It is a PCI device.
    pub pci: bool,
    /// Regions; PCI defines the first nine.
    pub num_regions: u32,
    /// Interrupt indexes; PCI defines the first five.
    pub num_irqs: u32,
}

/// Reads a request; all it says is how much room there is.
///
/// # Errors
/// The payload or `argsz` is below 16 bytes.
pub fn decode_request(body: &[u8]) -> Result<(), BadField> {
    let mut reader = Reader::new(body);
    let argsz = reader.u32()?;
    reader.bytes(12)?;
    if argsz < BYTES {
        return Err(BadField::invalid("argsz", argsz));
    }
    Ok(())
}

/// Appends a request.
pub fn encode_request(out: &mut Vec<u8>) {
    out.put_u32(BYTES);
    out.put_bytes(&[0; 12]);
}

impl DeviceInfo {
    /// Appends the reply.
    pub fn encode_reply(&self, out: &mut Vec<u8>) {
        let reset = if self.reset { FLAG_RESET } else { 0 };
        let pci = if self.pci { FLAG_PCI } else { 0 };
        out.put_u32(BYTES);
        out.put_u32(reset | pci);
        out.put_u32(self.num_regions);
        out.put_u32(self.num_irqs);
    }

    /// Reads a server's answer.
    ///
    /// # Errors
    /// It is short, no PCI device, without config space, or has more regions or indexes than any device.
    pub fn decode_reply(body: &[u8]) -> Result<Self, BadField> {
        let mut reader = Reader::new(body);
        let (argsz, flags) = (reader.u32()?, reader.u32()?);
        let (num_regions, num_irqs) = (reader.u32()?, reader.u32()?);
        if argsz < BYTES {
            return Err(BadField::invalid("argsz", argsz));
        }
        if flags & FLAG_PCI == 0 {
            return Err(BadField::invalid("flags (no PCI device)", flags));
        }
        if !(limits::PCI_REGIONS - 1..=limits::MAX_REGIONS).contains(&num_regions) {
            return Err(BadField::invalid("num_regions", num_regions));
        }
        if num_irqs > limits::MAX_IRQ_INDEXES {
            return Err(BadField::invalid("num_irqs", num_irqs));
        }
        Ok(Self {
            reset: flags & FLAG_RESET != 0,
            pci: true,
            num_regions,
            num_irqs,
        })
    }
}
