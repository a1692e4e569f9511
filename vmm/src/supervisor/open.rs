//! Opens what the VMM needs and may not open itself: /dev/kvm, the kernel, the initrd, the serial ports.
//!
//! Nothing is read here. A serial port's socket is listened on with mode 0600, and its file goes away with the VM.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use telemetry::log::{Format, LogError, Output};

use crate::config::{Config, SerialConfig};

use super::socket_file::SocketFile;

/// What the VMM gets.
#[derive(Debug)]
pub(super) struct OpenFiles {
    pub(super) kvm: OwnedFd,
    pub(super) kernel: OwnedFd,
    pub(super) initrd: Option<OwnedFd>,
    pub(super) serial: Vec<SerialEnds>,
    /// Listening QMP sockets; see `monitors`.
    pub(super) qmp: Vec<OwnedFd>,
    /// The listening socket for metrics.
    pub(super) metrics: Option<OwnedFd>,
}

/// The two directions of a serial port; see `SerialFds`.
#[derive(Debug, Default)]
pub(super) struct SerialEnds {
    pub(super) input: Option<OwnedFd>,
    pub(super) output: Option<OwnedFd>,
}

/// Why something could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("open /dev/kvm: {advice}")]
    Kvm {
        advice: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{option} {path}: cannot be opened; give a file that this user can read")]
    Image {
        option: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{option} {path}: is no regular file or is empty; give the file of a {what}")]
    NotAnImage {
        option: &'static str,
        path: PathBuf,
        what: &'static str,
    },
    #[error("-serial {target}: cannot be opened; give a path in a folder that this user can write")]
    Serial {
        target: String,
        #[source]
        source: io::Error,
    },
    #[error("-serial unix:{path}: another process listens there; end it or give another path")]
    SerialBusy { path: PathBuf },
    #[error(transparent)]
    Journal(#[from] LogError),
    #[error("-D {path}: cannot be opened; give a path in a folder that this user can write")]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Opens everything. The socket files that this makes are added to `files`.
pub(super) fn open(config: &Config, files: &mut Vec<SocketFile>) -> Result<OpenFiles, OpenError> {
    let kernel = image(
        "-kernel",
        &config.kernel,
        "Linux kernel (bzImage, or ELF with a PVH note)",
    )?;
    let initrd = config
        .initrd
        .as_deref()
        .map(|path| image("-initrd", path, "initial RAM disk"))
        .transpose()?;
    let kvm = kvm()?;
    let serial = config
        .serial
        .iter()
        .map(|serial| open_serial(serial, files))
        .collect::<Result<_, _>>()?;
    Ok(OpenFiles {
        kvm,
        kernel,
        initrd,
        serial,
        qmp: Vec::new(),
        metrics: None,
    })
}

/// The file that the log of the children goes to.
pub(super) fn log(path: &Path) -> Result<OwnedFd, OpenError> {
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    file.map(OwnedFd::from).map_err(|source| OpenError::Log {
        path: path.to_owned(),
        source,
    })
}

/// A connection to the journal, if the log goes there.
pub(super) fn journal(format: Format) -> Result<Option<OwnedFd>, OpenError> {
    match telemetry::log::output(format)? {
        Output::Journal(journal) => Ok(Some(journal.into())),
        Output::Stderr | Output::File(_) => Ok(None),
    }
}

fn kvm() -> Result<OwnedFd, OpenError> {
    let source = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => return Ok(file.into()),
        Err(error) => error,
    };
    let advice = if source.kind() == io::ErrorKind::PermissionDenied {
        "run as root, or add this user to its group (`usermod --append --groups kvm USER`)"
    } else {
        "load the module (`modprobe kvm_amd` or `modprobe kvm_intel`), and turn virtualization on in the firmware"
    };
    Err(OpenError::Kvm { advice, source })
}

/// A file with something in it. `option`: what names it.
pub(super) fn image(
    option: &'static str,
    path: &Path,
    what: &'static str,
) -> Result<OwnedFd, OpenError> {
    let refuse = |source| OpenError::Image {
        option,
        path: path.to_owned(),
        source,
    };
    // Not blocking: a FIFO would wait for its writer. Regular files do not care.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(refuse)?;
    let metadata = file.metadata().map_err(refuse)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(OpenError::NotAnImage {
            option,
            path: path.to_owned(),
            what,
        });
    }
    Ok(file.into())
}

fn open_serial(
    serial: &SerialConfig,
    files: &mut Vec<SocketFile>,
) -> Result<SerialEnds, OpenError> {
    let refuse = |target: String| move |source| OpenError::Serial { target, source };
    match serial {
        SerialConfig::None => Ok(SerialEnds::default()),
        SerialConfig::Stdio => {
            let copy = |fd: io::Result<OwnedFd>| fd.map_err(refuse("stdio".to_owned()));
            let input = Some(copy(io::stdin().as_fd().try_clone_to_owned())?);
            let output = Some(copy(io::stdout().as_fd().try_clone_to_owned())?);
            Ok(SerialEnds { input, output })
        }
        SerialConfig::File(path) => {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                // A FIFO that nobody reads is an error at once, not a wait without an end.
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(path);
            let refuse = refuse(format!("file:{}", path.display()));
            let blocking = |file: File| {
                let flags = rustix::fs::fcntl_getfl(&file)?;
                rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK))?;
                Ok(file)
            };
            let file = file.and_then(blocking).map_err(refuse)?;
            Ok(SerialEnds {
                input: None,
                output: Some(file.into()),
            })
        }
        SerialConfig::Unix { path, server } => {
            let target = format!("unix:{}", path.display());
            if !server {
                let socket = super::connect::socket(path)
                    .map_err(|errno| refuse(target)(io::Error::from(errno)))?;
                return Ok(SerialEnds {
                    input: Some(socket),
                    output: None,
                });
            }
            let (listener, file) = SocketFile::listen(path).map_err(|source| {
                if source.kind() == io::ErrorKind::AddrInUse {
                    OpenError::SerialBusy { path: path.clone() }
                } else {
                    OpenError::Serial { target, source }
                }
            })?;
            files.push(file);
            Ok(SerialEnds {
                input: Some(listener),
                output: None,
            })
        }
    }
}
