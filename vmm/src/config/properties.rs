//! The properties of each kind of device: what they are called, what is written there, what for.
//!
//! `-device DRIVER,help`, `device-list-properties` and the type checks of `device_add` answer from here; what a value may
//! be is judged where it is parsed (`device`, `root_port`, `place`).

/// One property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property {
    /// The key.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The value in the help, for example `ADDRESS`.
    pub value: &'static str,
    /// What it is for.
    pub description: &'static str,
}

/// What a property's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words, an address, a path.
    Text,
    /// `on` or `off`; true or false in JSON.
    Switch,
    /// `on`, `off` or one word more; true or false in JSON for the first two.
    SwitchOrWord,
    /// A whole number.
    Number,
    /// Bytes, with a unit if wanted.
    Size,
    /// A path, or QEMU's SocketAddress object in JSON.
    Socket,
}

impl Kind {
    /// As QEMU's `device-list-properties` calls it.
    pub fn type_name(self) -> &'static str {
        match self {
            Kind::Text | Kind::SwitchOrWord => "str",
            Kind::Switch => "bool",
            Kind::Number => "uint32",
            Kind::Size => "size",
            Kind::Socket => "SocketAddress",
        }
    }
}

/// All properties of a driver, `driver` itself left out; None if there is no such driver.
pub fn of(driver: &str) -> Option<impl Iterator<Item = &'static Property>> {
    let own: [&[Property]; 3] = match driver {
        "pcie-root-port" => [PLACE, ROOT_PORT, &[]],
        "vfio-pci" => [PLACE, HOST, VFIO],
        "vfio-user-pci" => [PLACE, SOCKET, VFIO],
        _ => return None,
    };
    Some(own.into_iter().flatten())
}

const fn property(
    name: &'static str,
    kind: Kind,
    value: &'static str,
    description: &'static str,
) -> Property {
    Property {
        name,
        kind,
        value,
        description,
    }
}

const ON_OFF: &str = "on|off";

const PLACE: &[Property] = &[
    property(
        "id",
        Kind::Text,
        "NAME",
        "its name, unique, at most 255 bytes; required",
    ),
    property(
        "bus",
        Kind::Text,
        "BUS",
        "pcie.0 (the root bus) or the id of a pcie-root-port; required",
    ),
    property(
        "addr",
        Kind::Text,
        "SLOT[.FUNCTION]",
        "slot 0 to 31 and function 0 to 7, decimal or 0x hexadecimal; required",
    ),
    property(
        "multifunction",
        Kind::Switch,
        ON_OFF,
        "for function 0: the slot has more functions; off by default",
    ),
];

const ROOT_PORT: &[Property] = &[
    property(
        "port",
        Kind::Number,
        "N",
        "its number, 1 to 254, by which the guest names its slot; chosen if not given",
    ),
    property(
        "chassis",
        Kind::Number,
        "N",
        "taken for the sake of QEMU's users; it changes nothing",
    ),
    property(
        "io-reserve",
        Kind::Size,
        "SIZE",
        "I/O ports kept for devices behind it; 4K by default while there are enough for all ports",
    ),
    property(
        "mem-reserve",
        Kind::Size,
        "SIZE",
        "32-bit memory kept for devices behind it; 2M by default",
    ),
    property(
        "pref64-reserve",
        Kind::Size,
        "SIZE",
        "64-bit prefetchable memory kept for devices behind it; 2M by default",
    ),
];

const HOST: &[Property] = &[
    property(
        "host",
        Kind::Text,
        "ADDRESS",
        "the device on the host, as 0000:1a:00.3; required",
    ),
    property(
        "managed",
        Kind::Switch,
        ON_OFF,
        "take it from its host driver, and give it back afterwards; off by default",
    ),
];

const SOCKET: &[Property] = &[property(
    "socket",
    Kind::Socket,
    "PATH",
    "where its server listens; required; in JSON also {\"type\":\"unix\",\"path\":PATH}",
)];

const VFIO: &[Property] = &[
    property(
        "bar-mmap",
        Kind::SwitchOrWord,
        "on|off|force",
        "map its BARs into the guest (on, the default), send every access to the server (off), or map them even on a CPU that \
         could leak memory through them (force)",
    ),
    property(
        "allow-no-reset",
        Kind::Switch,
        ON_OFF,
        "take a device that cannot be reset; off by default",
    ),
    property(
        "allow-noncoherent",
        Kind::Switch,
        ON_OFF,
        "take a device whose DMA may bypass caches that the guest cannot bypass; off by default",
    ),
    property(
        "unplug-timeout",
        Kind::Number,
        "N",
        "seconds the guest has to let go of it, 1 to 3600; 30 by default",
    ),
    property(
        "on-failure",
        Kind::Text,
        "HOW",
        "when its server is lost: remove it from its slot (the default), restart, or stop the machine",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceConfig;
    use crate::config::device::DRIVERS;

    fn listed(driver: &str) -> Vec<&'static str> {
        let mut names: Vec<&str> = of(driver).unwrap().map(|property| property.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn properties_that_are_listed_are_those_that_are_taken() {
        let place = "id=x,bus=pcie.0,addr=1,colour=red";
        for (driver, own) in [
            ("pcie-root-port", ""),
            ("vfio-pci", "host=0000:1a:00.3,"),
            ("vfio-user-pci", "socket=/run/x.sock,"),
        ] {
            let error = DeviceConfig::parse(&format!("{driver},{own}{place}")).unwrap_err();
            let error = error.to_string();
            let known = error.rsplit_once("known: ").unwrap().1;
            assert_eq!(listed(driver).join(", "), known, "{driver}");
        }
    }

    #[test]
    fn every_driver_is_listed_and_no_other() {
        assert!(DRIVERS.iter().all(|driver| of(driver).is_some()));
        assert!(of("e1000").is_none());
    }
}
