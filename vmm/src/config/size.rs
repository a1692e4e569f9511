//! Sizes as QEMU writes them: a number with `K`, `M`, `G` or `T`; without one, or in hexadecimal after `0x`, the unit that
//! the option says.

#[cfg(test)]
mod tests;

use super::place::whole_number;

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
    let plain_shift = if plain == PlainUnit::Mebibytes { 20 } else { 0 };
    let (digits, shift) = if text.starts_with("0x") || text.starts_with("0X") {
        // B is a digit there.
        (text, plain_shift)
    } else {
        match text.char_indices().next_back() {
            Some((at, 'B' | 'b')) => (&text[..at], 0),
            Some((at, 'K' | 'k')) => (&text[..at], 10),
            Some((at, 'M' | 'm')) => (&text[..at], 20),
            Some((at, 'G' | 'g')) => (&text[..at], 30),
            Some((at, 'T' | 't')) => (&text[..at], 40),
            Some(_) | None => (text, plain_shift),
        }
    };
    let number = whole_number(digits).ok_or_else(|| {
        format!(
            "\"{text}\" is not a size; write a whole number with K, M, G or T, for example 512M"
        )
    })?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("\"{text}\" is more than 64 bits can address"))
}
