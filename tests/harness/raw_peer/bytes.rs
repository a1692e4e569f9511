//! Messages as bytes, written from the specification's tables and not from our encoder.

/// A whole message: header and body.
pub fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    sized(id, command, 16 + body.len() as u32, flags, 0, body)
}

/// A message whose size field and error field are free.
pub fn sized(id: u16, command: u16, size: u32, flags: u32, error: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(id, command, size, flags).to_vec();
    bytes[12..16].copy_from_slice(&error.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn header(id: u16, command: u16, size: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&id.to_ne_bytes());
    bytes[2..4].copy_from_slice(&command.to_ne_bytes());
    bytes[4..8].copy_from_slice(&size.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

pub const COMMAND: u32 = 0;
pub const REPLY: u32 = 1;
pub const NO_REPLY: u32 = 1 << 4;
pub const ERROR: u32 = 1 << 5;

/// Little words one after another.
pub fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

/// VERSION with text and its NUL.
pub fn version(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut bytes = version_raw(major, minor, json.as_bytes());
    bytes.push(0);
    bytes
}

/// VERSION with these bytes behind the numbers.
pub fn version_raw(major: u16, minor: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = major.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&minor.to_ne_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

pub fn dma_map(argsz: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    for value in [offset, address, size] {
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    bytes
}

pub fn dma_unmap(argsz: u32, flags: u32, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    bytes.extend_from_slice(&address.to_ne_bytes());
    bytes.extend_from_slice(&size.to_ne_bytes());
    bytes
}

/// REGION_READ and REGION_WRITE.
pub fn access(region: u32, offset: u64, count: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = offset.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&words(&[region, count]));
    bytes.extend_from_slice(data);
    bytes
}

/// DEVICE_GET_REGION_INFO.
pub fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

/// DEVICE_SET_IRQS.
pub fn set_irqs(flags: u32, index: u32, start: u32, count: u32, bools: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[20 + bools.len() as u32, flags, index, start, count]);
    bytes.extend_from_slice(bools);
    bytes
}

/// One entry of REGION_WRITE_MULTI.
pub fn write_entry(region: u32, offset: u64, count: u32, data: u64) -> Vec<u8> {
    let mut bytes = offset.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&words(&[region, count]));
    bytes.extend_from_slice(&data.to_ne_bytes());
    bytes
}

/// The head of DMA_READ and DMA_WRITE messages.
pub fn dma_head(address: u64, count: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = address.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&count.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
