//! The command line, parsed once into a validated `Command`.
//!
//! Every device has a socket of its own: in `vfio`, each `--host` is followed by its `--socket PATH` or `--socket-fd N`.
//! Not here: opening anything. Limit: `MAX_DEVICES` devices in one process.

mod host;

use std::path::PathBuf;

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use protocol::PciAddress;
use sandbox::profile::Mode;

use crate::host::command::HostCommand;

/// Devices that one process serves. Source: an IOMMU group has at most the functions of a few slots.
const MAX_DEVICES: usize = 64;

/// What the process is to do.
#[derive(Debug)]
pub enum Task {
    /// Serve devices.
    Serve(Command),
    /// Answer the operator, and end.
    Host(HostCommand),
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
        devices: Vec<(PciAddress, Endpoint)>,
        /// How they are opened.
        options: VfioArgs,
    },
    /// The software test device.
    Test {
        /// Its socket.
        endpoint: Endpoint,
        /// Reach client memory by messages only.
        message_dma: bool,
    },
}

/// Where clients come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket to bind.
    Path(PathBuf),
    /// An inherited socket, listening or connected.
    Fd(i32),
}

/// Options of every subcommand.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Write one line, {"ready":true} or {"error":"..."}, to this inherited descriptor and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub ready_fd: Option<i32>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log_level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How PCI devices are opened.
#[derive(Debug, Clone, Args)]
pub struct VfioArgs {
    /// Serve a device that cannot be reset: what one client leaves in it reaches the next
    #[arg(long)]
    pub allow_no_reset: bool,
    /// What to do without before a client is served: on, best-effort (what this kernel and user can) or off (debugging)
    #[arg(long, value_name = "MODE", default_value_t = Mode::On)]
    pub sandbox: Mode,
    /// Bytes of memory that DMA maps may pin: the guest's memory, and a little more; no limit without it
    #[arg(long, value_name = "BYTES")]
    pub max_locked_memory: Option<u64>,
    /// Inherited descriptor of /dev/vfio/vfio, instead of opening it
    #[arg(long, value_name = "N", requires = "group_fd", value_parser = clap::value_parser!(i32).range(3..))]
    pub container_fd: Option<i32>,
    /// Inherited descriptor of /dev/vfio/GROUP, instead of opening it
    #[arg(long, value_name = "N", requires = "container_fd", value_parser = clap::value_parser!(i32).range(3..))]
    pub group_fd: Option<i32>,
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
        /// PCI address of a device, as 0000:1a:00.3
        #[arg(long, value_name = "ADDR", action = ArgAction::Append, required = true)]
        host: Vec<PciAddress>,
        #[command(flatten)]
        sockets: SocketArgs,
    },
    /// Serve the software test device
    Test {
        #[command(flatten)]
        process: ProcessArgs,
        /// Reach client memory by DMA_READ and DMA_WRITE even where the client sent a file descriptor
        #[arg(long)]
        message_dma: bool,
        #[command(flatten)]
        sockets: SocketArgs,
    },
    /// Check the host, list its PCI devices, give them to VFIO and back
    #[command(subcommand, arg_required_else_help = true)]
    Host(host::Host),
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// Path of the socket to listen on
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    socket: Vec<PathBuf>,
    /// Inherited socket: listening, or connected to one client
    #[arg(long, value_name = "N", action = ArgAction::Append, value_parser = clap::value_parser!(i32).range(3..))]
    socket_fd: Vec<i32>,
}

/// Parses the arguments, program name first. The error knows its text and exit status (also for --help).
pub fn parse<I>(arguments: I) -> Result<Task, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString> + Clone,
{
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let order = matches
        .subcommand()
        .map(|(_, matches)| EndpointOrder::new(matches))
        .unwrap_or_default();
    match cli.kind {
        Kind::Vfio {
            process,
            options,
            host,
            sockets,
        } => {
            let devices = pair(host, sockets, order)?;
            Ok(Task::Serve(Command {
                process,
                devices: Devices::Vfio { devices, options },
            }))
        }
        Kind::Test {
            process,
            message_dma,
            sockets,
        } => {
            let mut endpoints = endpoints(sockets, order).into_iter();
            match (endpoints.next(), endpoints.next()) {
                (Some((_, endpoint)), None) => Ok(Task::Serve(Command {
                    process,
                    devices: Devices::Test {
                        endpoint,
                        message_dma,
                    },
                })),
                (_, _) => Err(usage(
                    "test takes exactly one --socket PATH or --socket-fd N",
                )),
            }
        }
        Kind::Host(host) => Ok(Task::Host(host.into())),
    }
}

/// Where on the command line each option stood.
#[derive(Debug, Default)]
struct EndpointOrder {
    hosts: Vec<usize>,
    sockets: Vec<usize>,
    socket_fds: Vec<usize>,
}

impl EndpointOrder {
    fn new(matches: &ArgMatches) -> EndpointOrder {
        let indices = |id: &str| match matches.try_contains_id(id) {
            Ok(true) => matches
                .indices_of(id)
                .map(Iterator::collect)
                .unwrap_or_default(),
            Ok(false) | Err(_) => Vec::new(),
        };
        EndpointOrder {
            hosts: indices("host"),
            sockets: indices("socket"),
            socket_fds: indices("socket_fd"),
        }
    }
}

/// The sockets in the order in which they were given, with their positions.
fn endpoints(sockets: SocketArgs, order: EndpointOrder) -> Vec<(usize, Endpoint)> {
    let paths = order
        .sockets
        .into_iter()
        .zip(sockets.socket.into_iter().map(Endpoint::Path));
    let fds = order
        .socket_fds
        .into_iter()
        .zip(sockets.socket_fd.into_iter().map(Endpoint::Fd));
    let mut all: Vec<(usize, Endpoint)> = paths.chain(fds).collect();
    all.sort_by_key(|(position, _)| *position);
    all
}

/// Gives every host the one socket that stands between it and the next host.
fn pair(
    hosts: Vec<PciAddress>,
    sockets: SocketArgs,
    mut order: EndpointOrder,
) -> Result<Vec<(PciAddress, Endpoint)>, clap::Error> {
    if hosts.len() > MAX_DEVICES {
        return Err(usage(&format!(
            "at most {MAX_DEVICES} devices can be served by one process"
        )));
    }
    let positions = std::mem::take(&mut order.hosts);
    let mut endpoints = endpoints(sockets, order).into_iter().peekable();
    let mut paired: Vec<(PciAddress, Endpoint)> = Vec::new();
    let ends = positions.iter().skip(1).copied().chain([usize::MAX]);
    for ((host, start), end) in hosts.into_iter().zip(&positions).zip(ends) {
        let endpoint = endpoints.next_if(|(at, _)| start < at && *at < end);
        let (Some((_, endpoint)), None) = (endpoint, endpoints.next_if(|(at, _)| *at < end)) else {
            return Err(usage(&format!(
                "--host {host} must be followed by one --socket PATH or --socket-fd N"
            )));
        };
        if paired.iter().any(|(other, _)| *other == host) {
            return Err(usage(&format!("--host {host} is given twice")));
        }
        if paired.iter().any(|(_, other)| *other == endpoint) {
            return Err(usage(&format!(
                "the socket of --host {host} is given twice"
            )));
        }
        paired.push((host, endpoint));
    }
    Ok(paired)
}

fn usage(text: &str) -> clap::Error {
    Cli::command().error(clap::error::ErrorKind::ArgumentConflict, text)
}

#[cfg(test)]
mod tests;
