//! What a PCI device is called, from the PCI ID database that is compiled in (crate `pci-ids`).

use pci_ids::{Class, Device, FromId, Subclass, Vendor};
use protocol::PciAddress;

use super::device::{attribute, class, hexadecimal};
use super::roots::Roots;

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
                .and_then(Vendor::from_id)
                .map_or(String::new(), |vendor| vendor.name().to_owned()),
            device: vendor
                .zip(device)
                .and_then(|(vendor, device)| Device::from_vid_pid(vendor, device))
                .map_or(String::new(), |device| device.name().to_owned()),
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
    match Subclass::from_cid_sid(class, subclass) {
        Some(found) => found.name().to_owned(),
        None => Class::from_id(class).map_or(format!("class {class:02x}{subclass:02x}"), |found| {
            found.name().to_owned()
        }),
    }
}
