//! What belongs to one device of a command line with several: the options that stand between its `--host` and the next.
//!
//! Limit: `MAX_DEVICES` devices in one process.

use std::ops::Range;
use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, Args, ValueEnum};
use protocol::PciAddress;
use telemetry::service::FIRST_SOCKET;

use super::usage;

/// Devices that one process serves. Source: an IOMMU group has at most the functions of a few slots.
const MAX_DEVICES: usize = 64;

/// Where clients come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket to bind.
    Path(PathBuf),
    /// An inherited socket, listening or connected.
    Fd(i32),
}

/// One PCI device to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDevice {
    /// Its address.
    pub host: PciAddress,
    /// What the log and the metrics call it.
    pub id: String,
    /// Its socket.
    pub endpoint: Endpoint,
    /// Whether its client may map its BARs.
    pub bar_mmap: bool,
    /// Its inherited node.
    pub device_fd: Option<i32>,
}

#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    /// Path of the socket to listen on
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    socket: Vec<PathBuf>,
    /// Inherited socket: listening, or connected to one client
    #[arg(long, value_name = "N", action = ArgAction::Append, value_parser = clap::value_parser!(i32).range(3..))]
    socket_fd: Vec<i32>,
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// PCI address of a device, as 0000:1a:00.3
    #[arg(long, value_name = "ADDR", action = ArgAction::Append, required_unless_present = "print_sandbox")]
    host: Vec<PciAddress>,
    #[command(flatten)]
    sockets: SocketArgs,
    /// What the log and the metrics call this device; its address without it
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    id: Vec<String>,
    /// Whether the client of this device may map its BARs (on, the default). With off each access is a message, and the
    /// descriptor of the device stays in this process
    #[arg(long, value_name = "on|off", action = ArgAction::Append, value_enum)]
    bar_mmap: Vec<Switch>,
    /// Inherited descriptor of this device's node, /dev/vfio/devices/vfioN, together with --iommufd-fd
    #[arg(long, value_name = "N", action = ArgAction::Append, value_parser = clap::value_parser!(i32).range(3..))]
    device_fd: Vec<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Values of an option, each with where on the command line it stood.
#[derive(Debug)]
struct Placed<T>(Vec<(usize, T)>);

impl<T> Placed<T> {
    fn new(matches: &ArgMatches, id: &str, values: Vec<T>) -> Placed<T> {
        let positions = match matches.try_contains_id(id) {
            Ok(true) => matches
                .indices_of(id)
                .map(Iterator::collect)
                .unwrap_or_default(),
            Ok(false) | Err(_) => Vec::new(),
        };
        Placed(positions.into_iter().zip(values).collect())
    }

    /// Takes those that stand there.
    fn take(&mut self, places: &Range<usize>) -> Vec<T> {
        let (taken, kept) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(at, _)| places.contains(at));
        self.0 = kept;
        taken.into_iter().map(|(_, value)| value).collect()
    }
}

impl SocketArgs {
    /// The only one there is, for a command that serves one device.
    pub(super) fn only(self, what: &str) -> Result<Endpoint, clap::Error> {
        let paths = self.socket.into_iter().map(Endpoint::Path);
        let mut endpoints = paths.chain(self.socket_fd.into_iter().map(Endpoint::Fd));
        match (endpoints.next(), endpoints.next()) {
            (Some(endpoint), None) => Ok(endpoint),
            (_, _) => Err(usage(&format!(
                "{what} takes exactly one --socket PATH or --socket-fd N"
            ))),
        }
    }
}

impl DeviceArgs {
    /// Gives every device what stands between its `--host` and the next.
    pub(super) fn devices(
        self,
        matches: &ArgMatches,
        passed_sockets: i32,
    ) -> Result<Vec<ServedDevice>, clap::Error> {
        if self.host.len() > MAX_DEVICES {
            return Err(usage(&format!(
                "at most {MAX_DEVICES} devices can be served by one process"
            )));
        }
        let hosts = Placed::new(matches, "host", self.host).0;
        let mut paths = Placed::new(matches, "socket", self.sockets.socket);
        let mut fds = Placed::new(matches, "socket_fd", self.sockets.socket_fd);
        let mut bar_mmap = Placed::new(matches, "bar_mmap", self.bar_mmap);
        let mut device_fds = Placed::new(matches, "device_fd", self.device_fd);
        let mut ids = Placed::new(matches, "id", self.id);
        let ends: Vec<usize> = hosts.iter().skip(1).map(|(at, _)| *at).collect();
        let ends = ends.into_iter().chain([usize::MAX]);
        let mut passed = FIRST_SOCKET..FIRST_SOCKET.saturating_add(passed_sockets);
        let mut devices: Vec<ServedDevice> = Vec::new();
        for ((start, host), end) in hosts.into_iter().zip(ends) {
            let own = start..end;
            let mut endpoints = paths
                .take(&own)
                .into_iter()
                .map(Endpoint::Path)
                .chain(fds.take(&own).into_iter().map(Endpoint::Fd));
            let endpoint = match (endpoints.next(), endpoints.next()) {
                (Some(endpoint), None) => Some(endpoint),
                (None, _) => passed.next().map(Endpoint::Fd),
                (Some(_), Some(_)) => None,
            };
            let endpoint = endpoint.ok_or_else(|| {
                usage(&format!(
                    "--host {host} must be followed by one --socket PATH or --socket-fd N, or a service manager must pass a socket for it"
                ))
            })?;
            let bar_mmap = at_most_one(host, "--bar-mmap", bar_mmap.take(&own))?;
            let id = at_most_one(host, "--id", ids.take(&own))?;
            devices.push(ServedDevice {
                host,
                id: id.unwrap_or_else(|| host.to_string()),
                endpoint,
                bar_mmap: bar_mmap != Some(Switch::Off),
                device_fd: at_most_one(host, "--device-fd", device_fds.take(&own))?,
            });
        }
        let left = [
            paths.0.len(),
            fds.0.len(),
            bar_mmap.0.len(),
            ids.0.len(),
            device_fds.0.len(),
        ];
        if left != [0; 5] {
            return Err(usage(
                "--socket, --socket-fd, --id, --bar-mmap and --device-fd belong to a device and stand behind its --host",
            ));
        }
        check_distinct(&devices)?;
        Ok(devices)
    }
}

fn at_most_one<T>(
    host: PciAddress,
    option: &str,
    values: Vec<T>,
) -> Result<Option<T>, clap::Error> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(usage(&format!(
            "--host {host} is followed by {option} twice"
        ))),
    }
}

fn check_distinct(devices: &[ServedDevice]) -> Result<(), clap::Error> {
    for (index, device) in devices.iter().enumerate() {
        let host = device.host;
        for earlier in devices.iter().take(index) {
            if earlier.host == host {
                return Err(usage(&format!("--host {host} is given twice")));
            }
            if earlier.endpoint == device.endpoint {
                return Err(usage(&format!(
                    "the socket of --host {host} is given twice"
                )));
            }
        }
    }
    Ok(())
}
