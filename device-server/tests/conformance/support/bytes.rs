//! Messages as bytes, written from the specification's tables and not from our encoder.

/// A whole request: header and body.
pub(crate) fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(id, command, 16 + body.len() as u32, flags).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn header(id: u16, command: u16, size: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&id.to_ne_bytes());
    bytes[2..4].copy_from_slice(&command.to_ne_bytes());
    bytes[4..8].copy_from_slice(&size.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

pub(crate) const NO_REPLY: u32 = 1 << 4;

/// Little words one after another.
pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

/// VERSION with text and its NUL.
pub(crate) fn version(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut bytes = version_raw(major, minor, json.as_bytes());
    bytes.push(0);
    bytes
}

/// VERSION with these bytes behind the numbers.
pub(crate) fn version_raw(major: u16, minor: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = major.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&minor.to_ne_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

pub(crate) fn dma_map(argsz: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    for value in [offset, address, size] {
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    bytes
}

pub(crate) fn dma_unmap(argsz: u32, flags: u32, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    bytes.extend_from_slice(&address.to_ne_bytes());
    bytes.extend_from_slice(&size.to_ne_bytes());
    bytes
}

/// REGION_READ and REGION_WRITE.
pub(crate) fn access(region: u32, offset: u64, count: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = offset.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&words(&[region, count]));
    bytes.extend_from_slice(data);
    bytes
}

/// DEVICE_GET_REGION_INFO.
pub(crate) fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

/// DEVICE_SET_IRQS.
pub(crate) fn set_irqs(flags: u32, index: u32, start: u32, count: u32, bools: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[20 + bools.len() as u32, flags, index, start, count]);
    bytes.extend_from_slice(bools);
    bytes
}

/// One entry of REGION_WRITE_MULTI.
pub(crate) fn write_entry(region: u32, offset: u64, count: u32, data: u64) -> Vec<u8> {
    let mut bytes = offset.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&words(&[region, count]));
    bytes.extend_from_slice(&data.to_ne_bytes());
    bytes
}

/// The head of DMA_READ and DMA_WRITE messages.
pub(crate) fn dma_head(address: u64, count: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = address.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&count.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
