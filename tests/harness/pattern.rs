//! What is on the lab's NVMe disk (scripts/lab-support/pattern.py writes it).
//!
//! Block n of 4096 bytes is the record "BULKHEAD" + n as little-endian u64, 256 times. Tests that write keep to the
//! blocks from `FIRST_WRITABLE` on; those below stay as they are, for the tests that read.

pub const BLOCK_BYTES: usize = 4096;
pub const DISK_BYTES: u64 = 64 << 20;
/// Tests write from here on, and nobody expects the pattern there.
pub const FIRST_WRITABLE: u64 = 8192;

const MAGIC: &[u8; 8] = b"BULKHEAD";

/// The content of a block that was not written.
pub fn block(number: u64) -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    record.extend_from_slice(&number.to_le_bytes());
    record.repeat(BLOCK_BYTES / record.len())
}

/// The record that such a block repeats, as the guest's `block` function prints it.
pub fn record_in_hex(number: u64) -> String {
    block(number)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
