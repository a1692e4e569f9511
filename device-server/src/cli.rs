//! The command line, parsed once into a validated `Command`.
//!
//! Every device has a socket of its own: in `vfio`, each `--host` is followed by its `--socket PATH` or `--socket-fd N`
//! (see `devices`). Not here: opening anything.

mod accounts;
mod devices;
mod host;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use sandbox::profile::{Mode, Start};
use telemetry::log::{Format, LogError};

use self::devices::{DeviceArgs, SocketArgs};
pub use self::devices::{Endpoint, ServedDevice};
use crate::backends::vfio::IommuBackend;
use crate::host::command::HostCommand;

/// What the process is to do.
#[derive(Debug)]
pub enum Task {
    /// Serve devices.
    Serve(Command),
    /// Wait for the device to serve.
    Wait(Spare),
    /// Answer the operator, and end.
    Host(HostCommand),
    /// Print what a server of PCI devices may do, and what this machine gives of it.
    PrintSandbox,
}

/// Which devices to serve, and how.
#[derive(Debug)]
pub struct Command {
    /// How it logs and whom it tells that it is ready.
    pub process: ProcessArgs,
    /// Which devices it serves.
    pub devices: Devices,
}

/// Which kind of device, and where it is served.
#[derive(Debug)]
pub enum Devices {
    /// PCI devices of one IOMMU group.
    Vfio {
        /// Each with its socket.
        devices: Vec<ServedDevice>,
        /// How they are opened.
        options: VfioArgs,
    },
    /// The software test device.
    Test {
        /// What the log calls it.
        id: String,
        /// Its socket.
        endpoint: Endpoint,
        /// Reach client memory by messages only.
        message_dma: bool,
        /// How it is confined.
        sandbox: SandboxArgs,
    },
}

/// Where to wait for the order that names the device, and how it will be served. What is about devices here is the order's.
#[derive(Debug)]
pub struct Spare {
    /// How it logs and whom it tells that it is ready.
    pub process: ProcessArgs,
    /// How the device is opened.
    pub options: VfioArgs,
    /// The inherited socket.
    pub order_fd: i32,
    /// Whether an order may ask for a client to be served early.
    pub early: bool,
}

/// Options of every subcommand.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Write one line, {"ready":true} or {"error":"..."}, to this inherited descriptor and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub ready_fd: Option<i32>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_format())]
    pub log_format: Format,
    /// What is logged: error, warn, info, debug, trace, or levels per module as in info,device_server::dma=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log_level: String,
    /// Make a socket there (unix:PATH) on which metrics can be read, in the OpenMetrics text format over HTTP
    #[arg(long, value_name = "WHERE", value_parser = telemetry::metrics::socket_path)]
    pub metrics: Option<PathBuf>,
    /// Also serve processes of this user; the socket's mode has to let them connect
    #[arg(long, value_name = "USER", action = ArgAction::Append, value_parser = accounts::uid)]
    pub allow_uid: Vec<u32>,
    /// Also serve processes whose main group is this one
    #[arg(long, value_name = "GROUP", action = ArgAction::Append, value_parser = accounts::gid)]
    pub allow_gid: Vec<u32>,
}

/// How PCI devices are opened.
#[derive(Debug, Clone, Args)]
pub struct VfioArgs {
    /// Serve a device that cannot be reset: what one client leaves in it reaches the next
    #[arg(long)]
    pub allow_no_reset: bool,
    /// Serve a device whose DMA may bypass the CPU's caches where the guest cannot: it may see stale data
    #[arg(long)]
    pub allow_noncoherent: bool,
    /// Which way to the IOMMU: auto (iommufd where it can map files, else type1), iommufd or type1
    #[arg(long, value_name = "WAY", default_value_t = IommuBackend::Auto)]
    pub iommu_backend: IommuBackend,
    /// What it gives up before a client is served
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Bytes of memory that DMA maps may pin: the guest's memory, and a little more; no limit without it. With iommufd all
    /// servers of one user count together
    #[arg(long, value_name = "BYTES")]
    pub max_locked_memory: Option<u64>,
    /// Inherited descriptor of /dev/vfio/vfio. With descriptors of nodes no other is opened
    #[arg(long, value_name = "N", requires = "group_fd", value_parser = clap::value_parser!(i32).range(3..))]
    pub container_fd: Option<i32>,
    /// Inherited descriptor of /dev/vfio/GROUP
    #[arg(long, value_name = "N", requires = "container_fd", value_parser = clap::value_parser!(i32).range(3..))]
    pub group_fd: Option<i32>,
    /// Inherited descriptor of /dev/iommu, together with a --device-fd for each --host
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub iommufd_fd: Option<i32>,
}

/// How the process confines itself.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// What to do without before a client is served: on, best-effort (what this kernel and user can), inherited (a service
    /// manager has done most: look at it and complete it) or off (debugging)
    #[arg(long, value_name = "MODE", default_value_t = Mode::On)]
    pub sandbox: Mode,
    /// User and group to become, in place of one made from the process id
    #[arg(long, value_name = "N")]
    pub sandbox_uid: Option<u32>,
    /// End unless this process is alone in a pid namespace, which its parent has to make
    #[arg(long)]
    pub sandbox_alone: bool,
    /// Print what the server may do and why, and what this kernel and user give of it; serve nothing
    #[arg(long)]
    pub print_sandbox: bool,
}

impl From<SandboxArgs> for Start {
    fn from(args: SandboxArgs) -> Start {
        Start {
            mode: args.sandbox,
            uid: args.sandbox_uid,
            alone: args.sandbox_alone,
        }
    }
}

/// Serves PCI devices to virtual machines over vfio-user
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead-device-server",
    version,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Serve PCI devices of one IOMMU group: --host ADDR with --socket PATH or --socket-fd N, once per device
    Vfio {
        #[command(flatten)]
        process: ProcessArgs,
        #[command(flatten)]
        options: VfioArgs,
        #[command(flatten)]
        devices: DeviceArgs,
    },
    /// Be ready to serve a device that the supervisor of a VM will name: that and nobody else starts it
    #[command(hide = true)]
    Spare {
        #[command(flatten)]
        process: ProcessArgs,
        #[command(flatten)]
        options: VfioArgs,
        /// Inherited socket on which the order comes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
        order_fd: i32,
        /// An order may ask that its client is served before the device is open: then {"serving":true} comes before the ready line
        #[arg(long)]
        early: bool,
    },
    /// Serve the software test device
    Test {
        #[command(flatten)]
        process: ProcessArgs,
        /// What the log and the metrics call the device
        #[arg(long, value_name = "NAME", default_value = "test")]
        id: String,
        /// Reach client memory by DMA_READ and DMA_WRITE even where the client sent a file descriptor
        #[arg(long)]
        message_dma: bool,
        /// What it gives up before a client is served
        #[command(flatten)]
        sandbox: SandboxArgs,
        #[command(flatten)]
        sockets: SocketArgs,
    },
    /// Check the host, list its PCI devices, give them to VFIO and back
    #[command(subcommand, arg_required_else_help = true)]
    Host(host::Host),
}

/// The whole command line, for its pages in the manual.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, program name first. The error knows its text and exit status (also for --help). Sockets that a
/// service manager passed are for the devices that have none, in their order.
pub fn parse<I>(arguments: I, passed_sockets: i32) -> Result<Task, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    match cli.kind {
        Kind::Vfio {
            process,
            options,
            devices,
        } => {
            if options.sandbox.print_sandbox {
                return Ok(Task::PrintSandbox);
            }
            let matches = matches.subcommand().map(|(_, matches)| matches);
            let devices =
                devices.devices(matches.unwrap_or(&ArgMatches::default()), passed_sockets)?;
            Ok(Task::Serve(Command {
                process,
                devices: Devices::Vfio { devices, options },
            }))
        }
        Kind::Spare {
            process,
            options,
            order_fd,
            early,
        } => {
            let of_device = options.allow_no_reset || options.allow_noncoherent;
            let given = options.container_fd.or(options.iommufd_fd).is_some();
            if of_device || given || process.metrics.is_some() {
                return Err(usage("what is about a device comes with its order"));
            }
            Ok(Task::Wait(Spare {
                process,
                options,
                order_fd,
                early,
            }))
        }
        Kind::Test {
            process,
            id,
            message_dma,
            sandbox,
            sockets,
        } => {
            if sandbox.print_sandbox {
                return Ok(Task::PrintSandbox);
            }
            Ok(Task::Serve(Command {
                process,
                devices: Devices::Test {
                    id,
                    endpoint: sockets.only("test")?,
                    message_dma,
                    sandbox,
                },
            }))
        }
        Kind::Host(host) => Ok(Task::Host(host.into())),
    }
}

fn log_format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::NAMES).try_map(|name| name.parse())
}

fn log_filter(text: &str) -> Result<String, LogError> {
    telemetry::log::check_filter(text).map(|()| text.to_owned())
}

/// The exit status of a command line that cannot be followed, or that asks for help. Those of `host` stay clear of what
/// its commands mean by theirs: 1 and 2 are how a check came out.
pub fn usage_status(arguments: &[OsString], error: &clap::Error) -> u8 {
    const BAD_USAGE: u8 = 2;
    const BAD_HOST_USAGE: u8 = 64;
    const NOT_AN_ADDRESS: u8 = 16;
    if !error.use_stderr() {
        return 0;
    }
    if arguments.get(1).is_none_or(|word| word != "host") {
        return BAD_USAGE;
    }
    let of = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let is_address = of(ContextKind::InvalidArg).contains("ADDR");
    if error.kind() == ErrorKind::ValueValidation && is_address {
        NOT_AN_ADDRESS
    } else {
        BAD_HOST_USAGE
    }
}

fn usage(text: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ArgumentConflict, text)
}

#[cfg(test)]
mod tests;
