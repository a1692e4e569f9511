//! The 4 KiB configuration space of a function that the VMM emulates itself: root ports and the host bridge.
//!
//! Spec: PCI Local Bus 3.0 §6.1 (header), §6.7 (capability list); PCI Express Base 4.0 §7.2 (4 KiB per function).
//! A byte array with two masks: bits the guest may write, and bits that a written one clears. What a write means is
//! for the owner to see in the bytes afterwards. Passed devices do not use this (`vfio_user/config.rs`).

/// Bytes of configuration space that a PCI Express function has.
pub const CONFIG_BYTES: usize = 4096;
/// Where the first capability of an emulated function goes.
const FIRST_CAPABILITY: u16 = 0x40;

const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITY_POINTER: u16 = 0x34;

/// Configuration space with write masks.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    cleared_by_one: Vec<u8>,
    last_capability: Option<u16>,
    next_capability: u16,
}

impl Default for ConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSpace {
    /// All zero, nothing writable.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; CONFIG_BYTES],
            writable: vec![0; CONFIG_BYTES],
            cleared_by_one: vec![0; CONFIG_BYTES],
            last_capability: None,
            next_capability: FIRST_CAPABILITY,
        }
    }

    /// A guest read. Bytes past the end read as ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// A guest write: only writable bits change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (new, at) in data.iter().zip(usize::from(offset)..CONFIG_BYTES) {
            let (mask, clears) = (self.writable[at], self.cleared_by_one[at]);
            let old = self.bytes[at];
            self.bytes[at] = (old & !mask | new & mask) & !(new & clears);
        }
    }

    /// The 16 bits at `offset`.
    pub fn u16_at(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 32 bits at `offset`.
    pub fn u32_at(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Sets bytes as the function itself does, whatever the masks say.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        copy_into(&mut self.bytes, offset, data);
    }

    /// Lets the guest write these bits.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) {
        copy_into(&mut self.writable, offset, mask);
    }

    /// Lets the guest clear these bits by writing ones.
    pub fn allow_clear(&mut self, offset: u16, mask: &[u8]) {
        copy_into(&mut self.cleared_by_one, offset, mask);
    }

    /// Appends a capability to the list; `body` starts after the two bytes of id and next pointer.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u16 {
        let offset = self.next_capability;
        let [low, _] = offset.to_le_bytes();
        let end = usize::from(offset) + 2 + body.len();
        assert!(
            end <= 256,
            "the capabilities of an emulated function fit into its first 256 bytes"
        );
        self.set(
            self.last_capability
                .map_or(CAPABILITY_POINTER, |last| last + 1),
            &[low],
        );
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        let status = self.u16_at(STATUS) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        self.last_capability = Some(offset);
        self.next_capability = u16::try_from(end.next_multiple_of(4)).unwrap_or(u16::MAX);
        offset
    }
}

fn copy_into(target: &mut [u8], offset: u16, data: &[u8]) {
    let start = usize::from(offset);
    target[start..start + data.len()].copy_from_slice(data);
}

#[cfg(test)]
mod tests;
