//! Sizes as QEMU writes them: a number with `K`, `M`, `G` or `T`; without one, the unit that the option says.

#[cfg(test)]
mod tests;

/// What a plain number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainUnit {
    /// Bytes.
    Bytes,
    /// Mebibytes, as for `-m`.
    Mebibytes,
}

/// Parses a size in bytes. The error says what a size looks like.
pub fn parse(text: &str, plain: PlainUnit) -> Result<u64, String> {
    let expected = || {
        format!(
            "\"{text}\" is not a size; write a whole number with K, M, G or T, for example 512M"
        )
    };
    let (digits, shift) = match text.as_bytes() {
        [digits @ .., b'B' | b'b'] => (digits, 0),
        [digits @ .., b'K' | b'k'] => (digits, 10),
        [digits @ .., b'M' | b'm'] => (digits, 20),
        [digits @ .., b'G' | b'g'] => (digits, 30),
        [digits @ .., b'T' | b't'] => (digits, 40),
        digits => (digits, if plain == PlainUnit::Mebibytes { 20 } else { 0 }),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(expected());
    }
    let number: u64 = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(expected)?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("\"{text}\" is more than 64 bits can address"))
}
