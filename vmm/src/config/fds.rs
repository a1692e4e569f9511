//! What the supervisor hands to the jailed VMM: the configuration and the numbers of the descriptors it opened.
//!
//! The VMM opens nothing by name. Whoever reads a [`FdTable`] adopts each number once (`sandbox::sys::adopt_fd`).

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use super::Config;

/// The argument that makes this program stage 2.
pub const STAGE_VMM: &str = "--stage-vmm";
/// The argument that makes this program copy an image: its path and the largest size in bytes follow.
pub const STAGE_COPY_IMAGE: &str = "--stage-copy-image";
/// Where that finds the memory file to copy into.
pub const IMAGE_COPY_FD: RawFd = 3;
/// Where stage 2 finds its [`StageConfig`], as JSON in a sealed memfd.
pub const STAGE_CONFIG_FD: RawFd = 3;

/// Everything that stage 2 starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageConfig {
    /// The machine.
    pub config: Config,
    /// The user and group that it becomes, if the operator has given some.
    pub uid: Option<u32>,
    /// Whether it was started alone in a pid namespace.
    pub alone: bool,
    /// Its open files.
    pub fds: FdTable,
}

/// Numbers of inherited descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdTable {
    /// `/dev/kvm`.
    pub kvm: RawFd,
    /// The kernel, a regular file opened for reading.
    pub kernel: RawFd,
    /// The initrd, likewise.
    pub initrd: Option<RawFd>,
    /// One per `Config::serial`, in its order.
    pub serial: Vec<SerialFds>,
    /// SOCK_SEQPACKET to the supervisor.
    pub control: Option<RawFd>,
    /// The log file of `-D`; standard error without it.
    pub log: Option<RawFd>,
    /// Listening QMP sockets, one per `Config::monitors`.
    pub qmp: Vec<RawFd>,
    /// The listening socket of `-metrics`.
    pub metrics: Option<RawFd>,
    /// Connected vfio-user sockets, one per vfio device of the configuration.
    pub devices: Vec<DeviceSocket>,
}

impl FdTable {
    /// All numbers.
    pub fn numbers(&self) -> Vec<RawFd> {
        let FdTable {
            kvm,
            kernel,
            initrd,
            serial,
            control,
            log,
            qmp,
            metrics,
            devices,
        } = self;
        let ends = serial.iter().flat_map(|port| [port.input, port.output]);
        [Some(*kvm), Some(*kernel), *initrd, *control, *log, *metrics]
            .into_iter()
            .chain(ends)
            .flatten()
            .chain(qmp.iter().copied())
            .chain(devices.iter().map(|device| device.socket))
            .collect()
    }
}

/// The two directions of a serial port. Both `None` for `none`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialFds {
    /// What is typed into the port: standard input, or a Unix socket, connected or listening (see `output`).
    pub input: Option<RawFd>,
    /// What the guest writes: standard output or a file. `None` with an `input`: the socket serves both directions; a
    /// listening socket is accepted on by the VMM.
    pub output: Option<RawFd>,
}

/// The socket of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSocket {
    /// Its id on the command line.
    pub id: String,
    /// A connected vfio-user stream.
    pub socket: RawFd,
}
