//! Which host devices, vfio-user sockets and images this VM may ever have.
//!
//! Pure data, made from the command line before the VMM runs: whatever the VMM asks later is checked against it.
//! By default that is what the command line itself names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protocol::pci::PciAddress;
use protocol::supervisor::{BarMmap, HostOptions, Target};

use crate::config::{Config, DeviceConfig, PolicyRule};

/// What a VM may have.
#[derive(Debug, Default)]
pub(super) struct Policy {
    hosts: BTreeMap<PciAddress, HostOptions>,
    sockets: BTreeSet<PathBuf>,
    images: BTreeSet<PathBuf>,
}

/// What a VM may not have. The text says what would allow it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error(
        "host device {0} is not one that this VM may have: start the VM with -device-policy allow-host={0}"
    )]
    Host(PciAddress),
    #[error(
        "host device {0} may not be passed without a reset: start the VM with -device-policy allow-host={0},allow-no-reset=on"
    )]
    NoReset(PciAddress),
    #[error(
        "host device {0} may not be passed if its DMA bypasses caches: start the VM with -device-policy \
         allow-host={0},allow-noncoherent=on"
    )]
    Noncoherent(PciAddress),
    #[error(
        "the BARs of host device {host} may not be mapped with bar-mmap={asked}: start the VM with -device-policy \
         allow-host={host},bar-mmap={asked}"
    )]
    BarMmap { host: PciAddress, asked: BarMmap },
    #[error(
        "host device {0} may not be taken from its host driver: start the VM with -device-policy allow-host={0},managed=on, or \
         bind it yourself: `bulkhead-device-server host bind {0}`"
    )]
    Managed(PciAddress),
    #[error(
        "socket {0} is not one that this VM may have: start the VM with -device-policy allow-socket={0}"
    )]
    Socket(PathBuf),
    #[error(
        "image {0} is not one that this VM may have: start the VM with -device-policy allow-image={0}"
    )]
    Image(PathBuf),
}

impl Policy {
    /// What the command line names, and what `-device-policy` adds.
    pub(super) fn from_config(config: &Config) -> Policy {
        let mut policy = Policy::default();
        for device in &config.devices {
            match device {
                DeviceConfig::VfioPci(device) => {
                    policy.allow(device.host, device.common.options);
                }
                DeviceConfig::VfioUserPci(device) => {
                    policy.sockets.insert(device.socket.clone());
                }
                DeviceConfig::RootPort(_) => {}
            }
        }
        // The VMM stands in another folder: it asks by whole paths.
        let named = [Some(&config.kernel), config.initrd.as_ref()];
        let whole = |path: &PathBuf| std::path::absolute(path).ok();
        policy
            .images
            .extend(named.into_iter().flatten().filter_map(whole));
        config.policy.iter().for_each(|rule| policy.add(rule));
        policy
    }

    fn add(&mut self, rule: &PolicyRule) {
        match rule {
            PolicyRule::Host { host, options } => self.allow(*host, *options),
            PolicyRule::Socket(path) => {
                self.sockets.insert(path.clone());
            }
            PolicyRule::Image(path) => {
                self.images.insert(path.clone());
            }
        }
    }

    /// What is allowed twice is allowed as far as either says.
    fn allow(&mut self, host: PciAddress, options: HostOptions) {
        let allowed = self.hosts.entry(host).or_insert(options);
        allowed.allow_no_reset |= options.allow_no_reset;
        allowed.allow_noncoherent |= options.allow_noncoherent;
        allowed.bar_mmap = allowed.bar_mmap.max(options.bar_mmap);
        allowed.managed |= options.managed;
    }

    /// The host devices that the VM may have.
    pub(super) fn hosts(&self) -> impl Iterator<Item = PciAddress> {
        self.hosts.keys().copied()
    }

    /// Whether the VM may have this.
    pub(super) fn check(&self, target: &Target) -> Result<(), Denied> {
        match target {
            Target::Host { host, options } => {
                let allowed = self.hosts.get(host).ok_or(Denied::Host(*host))?;
                if options.allow_no_reset && !allowed.allow_no_reset {
                    return Err(Denied::NoReset(*host));
                }
                if options.allow_noncoherent && !allowed.allow_noncoherent {
                    return Err(Denied::Noncoherent(*host));
                }
                if options.bar_mmap > allowed.bar_mmap {
                    return Err(Denied::BarMmap {
                        host: *host,
                        asked: options.bar_mmap,
                    });
                }
                if options.managed && !allowed.managed {
                    return Err(Denied::Managed(*host));
                }
                Ok(())
            }
            Target::Socket { path } if self.sockets.contains(Path::new(path)) => Ok(()),
            Target::Socket { path } => Err(Denied::Socket(PathBuf::from(path))),
        }
    }

    /// Whether the VM may have this image. Paths are compared as they are written, like those of sockets.
    pub(super) fn check_image(&self, path: &str) -> Result<(), Denied> {
        // A `Path` takes `//` and `/./` for `/`.
        if self.images.iter().any(|image| image.as_os_str() == path) {
            Ok(())
        } else {
            Err(Denied::Image(PathBuf::from(path)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: HostOptions = HostOptions {
        allow_no_reset: false,
        allow_noncoherent: false,
        bar_mmap: BarMmap::On,
        managed: false,
    };
    const MANAGED: HostOptions = HostOptions {
        managed: true,
        ..PLAIN
    };
    const NO_RESET: HostOptions = HostOptions {
        allow_no_reset: true,
        ..PLAIN
    };
    const NONCOHERENT: HostOptions = HostOptions {
        allow_noncoherent: true,
        ..PLAIN
    };
    const FORCED: HostOptions = HostOptions {
        bar_mmap: BarMmap::Force,
        ..PLAIN
    };
    const TRAPPED: HostOptions = HostOptions {
        bar_mmap: BarMmap::Off,
        ..PLAIN
    };

    fn policy() -> Policy {
        let mut policy = Policy::default();
        policy.allow(address("0000:00:04.0"), PLAIN);
        policy.allow(address("0000:00:05.0"), NO_RESET);
        policy.allow(address("0000:00:06.0"), TRAPPED);
        policy.add(&PolicyRule::Socket("/run/x.sock".into()));
        policy
    }

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    fn host(text: &str, options: HostOptions) -> Target {
        Target::Host {
            host: address(text),
            options,
        }
    }

    fn socket(path: &str) -> Target {
        Target::Socket { path: path.into() }
    }

    #[test]
    fn named_devices_and_sockets_are_allowed() {
        for target in [
            host("0000:00:04.0", PLAIN),
            host("0000:00:04.0", TRAPPED),
            host("0000:00:05.0", NO_RESET),
            host("0000:00:05.0", PLAIN),
            host("0000:00:06.0", TRAPPED),
            socket("/run/x.sock"),
        ] {
            assert_eq!(policy().check(&target), Ok(()), "{target:?}");
        }
    }

    #[test]
    fn everything_else_is_denied_with_what_would_allow_it() {
        for (target, remedy) in [
            (
                host("0000:00:07.0", PLAIN),
                "-device-policy allow-host=0000:00:07.0",
            ),
            (
                host("0000:00:04.0", NO_RESET),
                "allow-host=0000:00:04.0,allow-no-reset=on",
            ),
            (
                host("0000:00:04.0", NONCOHERENT),
                "allow-host=0000:00:04.0,allow-noncoherent=on",
            ),
            (
                host("0000:00:04.0", FORCED),
                "allow-host=0000:00:04.0,bar-mmap=force",
            ),
            (
                host("0000:00:06.0", PLAIN),
                "allow-host=0000:00:06.0,bar-mmap=on",
            ),
            (
                host("0000:00:04.0", MANAGED),
                "`bulkhead-device-server host bind 0000:00:04.0`",
            ),
            (socket("/run/../run/x.sock"), "socket=/run/../run/x.sock"),
        ] {
            let denied = policy().check(&target).unwrap_err().to_string();
            assert!(denied.ends_with(remedy), "{denied}");
        }
    }

    #[test]
    fn images_of_the_policy_are_allowed_and_no_other_way_to_write_them() {
        let mut policy = policy();
        policy.add(&PolicyRule::Image("/boot/vmlinuz".into()));
        assert_eq!(policy.check_image("/boot/vmlinuz"), Ok(()));
        for path in [
            "/boot/vmlinuz-6.1",
            "/boot/../boot/vmlinuz",
            "/boot//vmlinuz",
            "/boot/./vmlinuz",
            "/boot/vmlinuz/",
            "/boot/vmlinuz/../shadow",
            "/boot",
            "/run/x.sock",
        ] {
            let denied = policy.check_image(path).unwrap_err().to_string();
            let remedy = format!("-device-policy allow-image={path}");
            assert!(denied.ends_with(&remedy), "{denied}");
        }
    }

    #[test]
    fn second_rule_for_a_device_adds_to_the_first() {
        let mut policy = policy();
        policy.allow(address("0000:00:06.0"), NO_RESET);
        let asked = host("0000:00:06.0", NO_RESET);
        assert_eq!(policy.check(&asked), Ok(()));
        policy.allow(address("0000:00:06.0"), TRAPPED);
        assert_eq!(policy.check(&asked), Ok(()));
    }
}
