//! The open files that this stage starts from.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::config::{Config, FdTable, SerialFds};
use crate::machine::serial::SerialWire;

/// Descriptors of the start have numbers below this; sockets of devices, which come and go, begin here.
pub(super) const LATE_FDS: RawFd = 512;

/// Everything that the supervisor opened for this stage.
#[derive(Debug)]
pub struct Inherited {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initrd.
    pub initrd: Option<OwnedFd>,
    /// The ends of the serial ports, COM1 first.
    pub serial: Vec<SerialWire>,
    /// To the supervisor.
    pub control: Option<OwnedFd>,
    /// Listening QMP sockets.
    pub qmp: Vec<OwnedFd>,
    /// The listening socket for metrics.
    pub metrics: Option<OwnedFd>,
    /// Connected vfio-user sockets by device id.
    pub devices: Vec<(String, OwnedFd)>,
}

/// The table does not fit what is open. A defect of the supervisor, or a stage started by hand.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// One descriptor.
    #[error("Take over descriptor {number} ({what})")]
    Adopt {
        /// What it is for.
        what: String,
        /// Its number.
        number: RawFd,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Not as many serial ports as configured.
    #[error("Take over {given} serial ports: {configured} are configured")]
    SerialPorts {
        /// What came.
        given: usize,
        /// What should have come.
        configured: usize,
    },
}

impl Inherited {
    /// Takes ownership of every descriptor of the table.
    pub fn adopt(fds: &FdTable, config: &Config) -> Result<Inherited, InheritError> {
        let (given, configured) = (fds.serial.len(), config.serial.len());
        if given != configured {
            return Err(InheritError::SerialPorts { given, configured });
        }
        let optional = |number: Option<RawFd>, what: &str| {
            number.map(|number| adopt(number, what)).transpose()
        };
        Ok(Inherited {
            kvm: adopt(fds.kvm, "/dev/kvm")?,
            kernel: adopt(fds.kernel, "kernel")?,
            initrd: optional(fds.initrd, "initrd")?,
            serial: fds.serial.iter().map(serial).collect::<Result<_, _>>()?,
            control: optional(fds.control, "supervisor")?,
            qmp: fds
                .qmp
                .iter()
                .map(|number| adopt(*number, "QMP socket"))
                .collect::<Result<_, _>>()?,
            metrics: optional(fds.metrics, "metrics socket")?,
            devices: fds
                .devices
                .iter()
                .map(|device| Ok((device.id.clone(), adopt_late(device.socket, &device.id)?)))
                .collect::<Result<_, InheritError>>()?,
        })
    }
}

fn serial(fds: &SerialFds) -> Result<SerialWire, InheritError> {
    let what = "serial port";
    Ok(match (fds.input, fds.output) {
        (None, None) => SerialWire::None,
        (None, Some(output)) => SerialWire::File(adopt(output, what)?),
        (Some(input), Some(output)) => SerialWire::Stdio {
            input: adopt(input, what)?,
            output: adopt(output, what)?,
        },
        (Some(number), None) => {
            SerialWire::from_socket(adopt(number, what)?).map_err(|source| InheritError::Adopt {
                what: what.to_owned(),
                number,
                source,
            })?
        }
    })
}

/// A descriptor that comes and goes with its device: not among those whose numbers stay.
fn adopt_late(number: RawFd, what: &str) -> Result<OwnedFd, InheritError> {
    let fd = adopt(number, what)?;
    rustix::io::fcntl_dupfd_cloexec(&fd, LATE_FDS).map_err(|errno| InheritError::Adopt {
        what: what.to_owned(),
        number,
        source: errno.into(),
    })
}

fn adopt(number: RawFd, what: &str) -> Result<OwnedFd, InheritError> {
    sandbox::sys::adopt_fd(number).map_err(|source| InheritError::Adopt {
        what: what.to_owned(),
        number,
        source,
    })
}
