//! What `-device help` and `-device DRIVER,help` answer.

use super::ConfigError;
use super::device::DRIVERS;

const LIST: &str = "\
pcie-root-port   a PCIe port: a bus of its own that a device can be plugged into
vfio-pci         a PCI device of the host, held by a device server of its own
vfio-user-pci    the device behind a vfio-user socket
Write -device DRIVER,help for the properties of one of them.
";

const PLACE: &str = "\
  id=NAME              its name, unique, at most 255 bytes; required
  bus=BUS              pcie.0 (the root bus) or the id of a pcie-root-port; required
  addr=SLOT[.FUNCTION] slot 0 to 31 and function 0 to 7, decimal or 0x hexadecimal; required
  multifunction=on|off for function 0: the slot has more functions; off by default
";

const ROOT_PORT: &str = "\
  port=N               its number, 1 to 254, by which the guest names its slot; chosen if not given
  chassis=N            taken for the sake of QEMU's users; it changes nothing
  io-reserve=SIZE      I/O ports kept for devices behind it; 4K by default while there are enough for all ports
  mem-reserve=SIZE     32-bit memory kept for devices behind it; 2M by default
  pref64-reserve=SIZE  64-bit prefetchable memory kept for devices behind it; 2M by default
";

const VFIO: &str = "\
  bar-mmap=on|off      map its BARs into the guest (on, the default) or send every access to the server
  allow-no-reset=on|off take a device that cannot be reset; off by default
  unplug-timeout=N     seconds the guest has to let go of it, 1 to 3600; 30 by default
  on-failure=HOW       when its server is lost: remove it from its slot (the default), restart, or stop the machine
";

const HOST: &str = "  host=ADDRESS         the device on the host, as 0000:1a:00.3; required\n";
const SOCKET: &str = "\
  socket=PATH          where its server listens; required; in JSON also {\"type\":\"unix\",\"path\":PATH}
";

/// The answer, if the value of `-device` asks for help.
pub fn answer(device: &str) -> Option<Result<String, ConfigError>> {
    if device == "help" || device == "?" {
        return Some(Ok(LIST.to_owned()));
    }
    let driver = device
        .strip_suffix(",help")
        .or_else(|| device.strip_suffix(",?"))?;
    let own = match driver {
        "pcie-root-port" => ROOT_PORT.to_owned(),
        "vfio-pci" => [HOST, VFIO].concat(),
        "vfio-user-pci" => [SOCKET, VFIO].concat(),
        _ => {
            let reason = format!("there is no such device; there are {}", DRIVERS.join(", "));
            return Some(Err(ConfigError::device(driver, reason)));
        }
    };
    Some(Ok(format!("{driver} properties:\n{own}{PLACE}")))
}
