//! The address of a PCI function on the host, as an operator writes it.
//!
//! Taken: `0000:1a:00.3` and `1a:00.3` (domain 0). Shown: always the long form, which is also the name in sysfs.
//! Parsed strictly, because names of files are made from it: exactly the digits of the form, nothing around them.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number, at most 31.
    pub device: u8,
    /// Function number, at most 7.
    pub function: u8,
}

/// The text is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not a PCI address: write it as 0000:1a:00.3 or 1a:00.3 (hexadecimal, device at most 1f, function at most 7)"
)]
pub struct PciAddressError {
    /// What was given, shortened to a length that is safe to print.
    pub text: String,
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or_else(|| PciAddressError {
            text: text
                .chars()
                .take(32)
                .flat_map(char::escape_default)
                .collect(),
        })
    }
}

fn parse(text: &[u8]) -> Option<PciAddress> {
    let (domain, rest) = match text.len() {
        12 => {
            let (domain, rest) = text.split_at_checked(4)?;
            (hex(domain)?, rest.strip_prefix(b":")?)
        }
        7 => (0, text),
        _ => return None,
    };
    let (bus, rest) = rest.split_at_checked(2)?;
    let (device, rest) = rest.strip_prefix(b":")?.split_at_checked(2)?;
    let function = rest.strip_prefix(b".")?;
    let address = PciAddress {
        domain,
        bus: u8::try_from(hex(bus)?).ok()?,
        device: u8::try_from(hex(device)?).ok()?,
        function: u8::try_from(hex(function)?).ok()?,
    };
    (address.device <= 31 && address.function <= 7).then_some(address)
}

/// At most four hexadecimal digits; no sign, no prefix.
fn hex(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pci_address_both_forms_are_taken() {
        let wanted = PciAddress {
            domain: 0,
            bus: 0x1a,
            device: 0,
            function: 3,
        };
        assert_eq!("0000:1a:00.3".parse(), Ok(wanted));
        assert_eq!("1a:00.3".parse(), Ok(wanted));
        assert_eq!("1A:00.3".parse(), Ok(wanted));
        assert_eq!(wanted.to_string(), "0000:1a:00.3");
    }

    #[test]
    fn pci_address_anything_else_is_refused() {
        let refused = [
            "",
            "1a:00",
            "1a:00.8",
            "1a:20.0",
            "1a:00.3 ",
            " 1a:00.3",
            "0000:1a:00.3\n",
            "0000:1a:00.30",
            "00000:1a:00.3",
            "000:1a:00.3",
            "+000:1a:00.3",
            "0000:+a:00.3",
            "0000:1a:00:3",
            "0000.1a.00.3",
            "0000:1a:00.g",
            "../:1a:00.3",
            "1a:-0.3",
            "é:1a:00.3",
            "0000:1a:00é3",
        ];
        for text in refused {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn pci_address_error_names_the_text_and_the_form() {
        let error = "eth0".parse::<PciAddress>().unwrap_err().to_string();
        assert!(error.contains("\"eth0\"") && error.contains("0000:1a:00.3"));
        let long = "x".repeat(100_000).parse::<PciAddress>().unwrap_err();
        assert!(long.to_string().len() < 200);
        let control = "\x1b[2J".parse::<PciAddress>().unwrap_err();
        assert!(!control.to_string().contains('\x1b'));
    }

    proptest! {
        #[test]
        fn pci_address_shown_form_parses_to_itself(domain: u16, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn pci_address_random_text_never_panics(text in "\\PC{0,16}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert!(address.to_string().ends_with(&text.to_lowercase()));
            }
        }
    }
}
