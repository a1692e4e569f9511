//! The machine as the operator wants it: plain validated types, made once from the command line.
//!
//! [`Config`] is what both stages work from; [`StageConfig`] is what the supervisor hands to the jailed VMM: the same
//! configuration and the numbers of the file descriptors that it opened.
//!
//! | File | Question it answers |
//! |---|---|
//! | `machine` | `-machine`, `-cpu`, `-smp`, `-serial` |
//! | `memory` | `-m`, `-object memory-backend-memfd`, `-mem-path`: how much memory, of which pages |
//! | `monitor` | `-qmp`, `-chardev`, `-mon`, `-name` |
//! | `policy` | `-device-policy` |
//! | `sandbox` | `-sandbox`, `-sandbox-uids`, `-sandbox-cgroup` |
//! | `iommu` | `-iommu-backend` |
//! | `fds` | the numbers of the descriptors that the supervisor opened |
//! | `device` | `-device`: which device with which properties |
//! | `root_port` | `-device pcie-root-port` |
//! | `topology` | do the devices fit together: ids, buses, slots |
//! | `place` | `bus=`, `addr=`, `multifunction=` |
//! | `help`, `properties` | what `-device help` answers, which properties there are |
//! | `property_list`, `json` | the two ways to write properties |
//! | `size` | `512M` |

pub mod machine;
pub mod memory;
pub mod monitor;
pub mod policy;
pub mod sandbox;
pub mod device;
pub mod root_port;
pub mod topology;
pub mod place;
pub mod help;
pub mod properties;
pub mod json;
pub mod property_list;
pub mod size;
pub mod iommu;
pub mod fds;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use device::{
    BarMmap, DeviceConfig, HostOptions, OnFailure, VfioCommon, VfioPciConfig, VfioUserConfig,
};
pub use fds::{
    DeviceSocket, FdTable, IMAGE_COPY_FD, STAGE_CONFIG_FD, STAGE_COPY_IMAGE, STAGE_VMM, SerialFds,
    StageConfig,
};
pub use iommu::IommuBackend;
pub use machine::{LogConfig, Machine, SerialConfig};
pub use memory::{HugetlbConfig, MemoryConfig};
pub use monitor::MonitorConfig;
pub use place::Place;
pub use policy::PolicyRule;
pub use property_list::PropertyError;
pub use root_port::RootPortConfig;
pub use sandbox::{SandboxConfig, UidRange};

/// One virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `-machine`.
    pub machine: Machine,
    /// `-smp`: 1 to 32.
    pub cpus: u8,
    /// `-m` and what kind of pages.
    pub memory: MemoryConfig,
    /// `-kernel`: a bzImage or an ELF file with a PVH note.
    pub kernel: PathBuf,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`: the kernel's command line.
    pub append: String,
    /// `-serial`, COM1 first.
    pub serial: Vec<SerialConfig>,
    /// `-device`, in the order given. Checked against each other.
    pub devices: Vec<DeviceConfig>,
    /// `-qmp`, and `-mon` with its `-chardev`.
    pub monitors: Vec<MonitorConfig>,
    /// `-device-policy`: what may be added later, beside what the command line names.
    pub policy: Vec<PolicyRule>,
    /// How the processes are confined.
    pub sandbox: SandboxConfig,
    /// `-name`.
    pub name: Option<String>,
    /// `-no-reboot`: a guest reset ends the machine.
    pub no_reboot: bool,
    /// `-iommu-backend`.
    pub iommu_backend: IommuBackend,
    /// `-D`, `-log-format`, `-log-level`.
    pub log: LogConfig,
    /// `-metrics`: a socket on which they can be read.
    pub metrics: Option<PathBuf>,
    /// Not an option: whether the host's CPU could leak memory through mapped BARs, as the supervisor found.
    pub bars_leak: bool,
}

/// The command line does not describe a machine. Each text names the option and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One option with a value that cannot be.
    #[error("-{option} {value}: {reason}")]
    Option {
        /// Without the dash.
        option: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what is right.
        reason: String,
    },
    /// A `-device` with a property that cannot be.
    #[error("-device {device}: {reason}")]
    Device {
        /// Its id, or its driver if it has none.
        device: String,
        /// What is wrong and what is right.
        reason: String,
    },
    /// An option that is not there, or two that do not go together.
    #[error("{0}")]
    Missing(String),
}

impl ConfigError {
    pub(crate) fn option(option: &'static str, value: &str, reason: impl ToString) -> ConfigError {
        ConfigError::Option {
            option,
            value: value.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn device(device: &str, reason: impl ToString) -> ConfigError {
        ConfigError::Device {
            device: device.to_owned(),
            reason: reason.to_string(),
        }
    }
}
