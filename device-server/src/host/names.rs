//! What a PCI device is called, from the PCI ID database that is compiled in (crate `pci-ids`, as `build.rs` writes it).

use protocol::PciAddress;

use super::device::{attribute, class, hexadecimal};
use super::roots::Roots;

/// Lines "key\tname", each after a line break.
static DATABASE: &str = include_str!(concat!(env!("OUT_DIR"), "/pci-names.txt"));

/// Ids and names of one device. Names that the database does not know are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// "8086:10d3".
    pub(super) ids: String,
    /// "Intel Corporation".
    pub(super) vendor: String,
    /// "82574L Gigabit Network Connection".
    pub(super) device: String,
    /// "Ethernet controller".
    pub(super) class: String,
}

impl Names {
    /// Of the device at `address`.
    pub(super) fn read(roots: &Roots, address: PciAddress) -> Names {
        let id = |name| {
            let text = attribute(&roots.sysfs, address, name)?;
            u16::try_from(hexadecimal(&text)?).ok()
        };
        let (vendor, device) = (id("vendor"), id("device"));
        let shown = |id: Option<u16>| id.map_or("????".to_owned(), |id| format!("{id:04x}"));
        Names {
            ids: format!("{}:{}", shown(vendor), shown(device)),
            vendor: vendor
                .and_then(|vendor| name(&format!("v{vendor:04x}")))
                .unwrap_or_default()
                .to_owned(),
            device: vendor
                .zip(device)
                .and_then(|(vendor, device)| name(&format!("d{vendor:04x}{device:04x}")))
                .unwrap_or_default()
                .to_owned(),
            class: class(&roots.sysfs, address).map_or(String::new(), class_name),
        }
    }

    /// Vendor and device in words, or the ids where there are none.
    pub(super) fn title(&self) -> String {
        match (self.vendor.as_str(), self.device.as_str()) {
            ("", _) => self.ids.clone(),
            (vendor, "") => format!("{vendor} device {}", self.ids),
            (vendor, device) => format!("{vendor} {device}"),
        }
    }
}

fn class_name(class: u32) -> String {
    let [_, class, subclass, _] = class.to_be_bytes();
    let known = name(&format!("c{class:02x}{subclass:02x}"));
    let known = known.or_else(|| name(&format!("c{class:02x}")));
    known.map_or(format!("class {class:02x}{subclass:02x}"), str::to_owned)
}

/// The name with this key.
fn name(key: &str) -> Option<&'static str> {
    let (_, rest) = DATABASE.split_once(&format!("\n{key}\t"))?;
    rest.lines().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_have_their_names_and_others_none() {
        assert_eq!(name("v8086"), Some("Intel Corporation"));
        assert_eq!(name("d808610d3"), Some("82574L Gigabit Network Connection"));
        assert_eq!(name("d8086ffff"), None);
        assert_eq!(name("v808"), None);
    }

    #[test]
    fn class_is_named_by_subclass_or_class_or_number() {
        assert_eq!(class_name(0x02_0000), "Ethernet controller");
        assert_eq!(class_name(0x02_7700), "Network controller");
        assert_eq!(class_name(0x77_0100), "class 7701");
    }
}
