//! What `-device help` and `-device DRIVER,help` answer.

use super::ConfigError;
use super::device::DRIVERS;
use super::properties;

const LIST: &str = "\
pcie-root-port   a PCIe port: a bus of its own that a device can be plugged into
vfio-pci         a PCI device of the host, held by a device server of its own
vfio-user-pci    the device behind a vfio-user socket
Write -device DRIVER,help for the properties of one of them.
";

/// The answer, if the value of `-device` asks for help.
pub fn answer(device: &str) -> Option<Result<String, ConfigError>> {
    if device == "help" || device == "?" {
        return Some(Ok(LIST.to_owned()));
    }
    let driver = device
        .strip_suffix(",help")
        .or_else(|| device.strip_suffix(",?"))?;
    let Some(properties) = properties::of(driver) else {
        let reason = format!("there is no such device; there are {}", DRIVERS.join(", "));
        return Some(Err(ConfigError::device(driver, reason)));
    };
    let mut text = format!("{driver} properties:\n");
    for property in properties {
        let key = format!("{}={}", property.name, property.value);
        text.push_str(&format!("  {key:<21} {}\n", property.description));
    }
    Some(Ok(text))
}
