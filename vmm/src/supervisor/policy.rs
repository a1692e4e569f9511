//! Which host devices and vfio-user sockets this VM may ever have.
//!
//! Pure data, made from the command line before the VMM runs: whatever the VMM asks later is checked against it.
//! By default that is what the command line itself names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protocol::pci::PciAddress;
use protocol::supervisor::Target;

use crate::config::{Config, DeviceConfig, PolicyRule};

/// What a VM may have.
#[derive(Debug, Default)]
pub(super) struct Policy {
    hosts: BTreeMap<PciAddress, HostRule>,
    sockets: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct HostRule {
    allow_no_reset: bool,
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
        "socket {0} is not one that this VM may have: start the VM with -device-policy allow-socket={0}"
    )]
    Socket(PathBuf),
}

impl Policy {
    /// What the command line names, and what `-device-policy` adds.
    pub(super) fn from_config(config: &Config) -> Policy {
        let mut policy = Policy::default();
        for device in &config.devices {
            match device {
                DeviceConfig::VfioPci(device) => {
                    let rule = HostRule {
                        allow_no_reset: device.common.allow_no_reset,
                    };
                    policy.hosts.insert(device.host, rule);
                }
                DeviceConfig::VfioUserPci(device) => {
                    policy.sockets.insert(device.socket.clone());
                }
                DeviceConfig::RootPort(_) => {}
            }
        }
        config.policy.iter().for_each(|rule| policy.add(rule));
        policy
    }

    fn add(&mut self, rule: &PolicyRule) {
        match rule {
            PolicyRule::Host {
                host,
                allow_no_reset,
            } => {
                let rule = self.hosts.entry(*host).or_insert(HostRule {
                    allow_no_reset: false,
                });
                rule.allow_no_reset |= allow_no_reset;
            }
            PolicyRule::Socket(path) => {
                self.sockets.insert(path.clone());
            }
        }
    }

    /// Whether the VM may have this.
    pub(super) fn check(&self, target: &Target) -> Result<(), Denied> {
        match target {
            Target::Host {
                host,
                allow_no_reset,
            } => {
                let rule = self.hosts.get(host).ok_or(Denied::Host(*host))?;
                if *allow_no_reset && !rule.allow_no_reset {
                    return Err(Denied::NoReset(*host));
                }
                Ok(())
            }
            Target::Socket { path } if self.sockets.contains(Path::new(path)) => Ok(()),
            Target::Socket { path } => Err(Denied::Socket(PathBuf::from(path))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let rule = |allow_no_reset| HostRule { allow_no_reset };
        Policy {
            hosts: BTreeMap::from([
                (address("0000:00:04.0"), rule(false)),
                (address("0000:00:05.0"), rule(true)),
            ]),
            sockets: BTreeSet::from([PathBuf::from("/run/x.sock")]),
        }
    }

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    fn host(text: &str, allow_no_reset: bool) -> Target {
        Target::Host {
            host: address(text),
            allow_no_reset,
        }
    }

    #[test]
    fn named_devices_and_sockets_are_allowed() {
        assert_eq!(policy().check(&host("0000:00:04.0", false)), Ok(()));
        assert_eq!(policy().check(&host("0000:00:05.0", true)), Ok(()));
        assert_eq!(policy().check(&host("0000:00:05.0", false)), Ok(()));
        assert_eq!(
            policy().check(&Target::Socket {
                path: "/run/x.sock".into()
            }),
            Ok(())
        );
    }

    #[test]
    fn everything_else_is_denied_with_what_would_allow_it() {
        let denied = policy().check(&host("0000:00:06.0", false)).unwrap_err();
        assert!(
            denied
                .to_string()
                .contains("-device-policy allow-host=0000:00:06.0"),
            "{denied}"
        );
        let denied = policy().check(&host("0000:00:04.0", true)).unwrap_err();
        assert!(denied.to_string().contains("allow-no-reset=on"), "{denied}");
        let denied = policy()
            .check(&Target::Socket {
                path: "/run/../run/x.sock".into(),
            })
            .unwrap_err();
        assert!(
            denied.to_string().contains("socket=/run/../run/x.sock"),
            "{denied}"
        );
    }
}
