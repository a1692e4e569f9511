//! Stage 1: opens what needs privilege, starts the device servers and the VMM, and watches over them.
//!
//! It never reads a byte of the guest or of vfio-user, and makes no ioctl on a VFIO node. The VMM and the servers get
//! exactly the descriptors listed in `spawn`; no device descriptor stays here. Everything it started ends with it.
//!
//! | File | Question it answers |
//! |---|---|
//! | `watch` | what happens to the processes, in one poll loop |
//! | `attach`, `control`, `policy` | what a running VMM may ask, how often, and for which devices |
//! | `servers`, `server`, `life`, `ready` | what becomes of a device server, and of what it held |
//! | `holders`, `brake` | who still has its devices, and how their DMA is stopped |
//! | `images`, `image_copy` | how a VMM is lent what it may boot next |
//! | `errand` | what is done by a process of its own, with a deadline |
//! | `managed` | how devices leave their host drivers for this VM, and go back |
//! | `vmm_process` | how the VMM is stopped |
//! | `spawn`, `programs` | which program runs with which arguments and descriptors |
//! | `spare`, `waiting` | how a device server is ready before its device is known |
//! | `confinement` | what of a child's sandbox its parent has to make |
//! | `hosts`, `nodes` | which IOMMU group, is it ours to pass; its VFIO nodes |
//! | `host_cpu` | may guests map BARs on this host |
//! | `open`, `socket_file`, `connect` | files, serial sockets, other people's device servers |
//! | `monitors` | where QMP clients connect |
//! | `signals`, `terminal`, `deadline` | who asks to end; the terminal afterwards; how long for what |

mod watch;
mod vmm_process;
mod attach;
mod control;
mod policy;
mod servers;
mod server;
mod life;
mod brake;
mod holders;
mod managed;
mod images;
mod image_copy;
mod errand;
mod spare;
mod spawn;
mod waiting;
mod confinement;
mod ready;
mod programs;
mod nodes;
mod hosts;
mod host_cpu;
mod host_memory;
mod open;
mod monitors;
mod socket_file;
mod connect;
mod signals;
mod terminal;
mod deadline;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use protocol::pci::PciAddress;
use sandbox::enter::{self, EnterError};
use sandbox::profile::Mode;
use telemetry::service::Notifier;

use crate::config::{Config, DeviceConfig, PolicyRule};
use crate::one_line::one_line;
use crate::threads::start_closing_alone;

pub use image_copy::{CopyError, copy_image};

use attach::Attachments;
use confinement::{Confinement, ConfinementError};
use connect::ConnectError;
use control::Control;
use hosts::{HostDevice, HostError};
use managed::Managed;
use monitors::MonitorError;
use open::OpenError;
use policy::Policy;
use programs::Programs;
use signals::Signals;
use spawn::{Connected, SpawnError, Spawner};
use terminal::TerminalGuard;
use watch::{Watch, WatchError};

/// The status of a VM that SIGTERM ended.
const STOPPED_BY_SIGTERM: u8 = 128 + 15;

/// Why a VM did not start, or could not be watched.
#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error("take over signals")]
    Signals(#[source] io::Error),
    #[error("reach the service manager (NOTIFY_SOCKET)")]
    Manager(#[source] io::Error),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("take host device {host} from its host driver (managed=on): {reason}")]
    NotTaken { host: PciAddress, reason: String },
    #[error(transparent)]
    Memory(#[from] host_memory::DoesNotFit),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Sandbox(#[from] EnterError),
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// Runs a VM to its end. What it returns is the VMM's exit status, or 1 after one line on standard error.
/// Call it on the main thread: the processes that it starts are killed when the calling thread ends.
pub fn supervise(config: Config) -> ExitCode {
    match run(config, Programs::find()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("bulkhead-vmm: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(mut config: Config, programs: Programs) -> Result<u8, SuperviseError> {
    // 1. Signals first: from here on they are events, and nothing that was started is left behind by one.
    let signals = Signals::block().map_err(SuperviseError::Signals)?;
    sandbox::sys::make_children_waitable().map_err(SuperviseError::Signals)?;
    let _terminal = TerminalGuard::new();
    // 2. What this VM may ever have, and how its processes are confined.
    let policy = Policy::from_config(&config);
    hosts::check_allowed(Path::new(hosts::SYSFS), allowed_hosts(&config))?;
    let confinement = Confinement::new(&config.sandbox)?;
    if config.sandbox.mode == Mode::Off {
        eprintln!(
            "bulkhead-vmm: -sandbox off: whoever takes over one of this VM's processes has all that this user has"
        );
    }
    let manager = Notifier::connect().map_err(SuperviseError::Manager)?;
    // 3. Look at every host device, and at the host's CPU, before anything is opened or started. What is taken from a host
    //    driver goes back when this function returns.
    let mut managed = Managed::new(programs.device_server.clone());
    for device in host_devices(&config) {
        take_from_host(&mut managed, &device)?;
    }
    let groups = hosts::by_group(Path::new(hosts::SYSFS), &host_devices(&config))?;
    let release = rustix::system::uname();
    let bars_leak = host_cpu::bars_leak(
        Path::new(hosts::SYSFS),
        &release.release().to_string_lossy(),
    );
    config.bars_leak = bars_leak.is_some();
    // 4. Open files. Socket files go away when this function returns.
    let mut socket_files = Vec::new();
    host_memory::check(&config)?;
    let mut files = open::open(&config, &mut socket_files)?;
    files.qmp = monitors::listen(&config.monitors, &mut socket_files)?;
    let metrics = config.metrics.as_deref();
    files.metrics = metrics
        .map(|path| monitors::listen_for_metrics(path, &mut socket_files))
        .transpose()?;
    let log_file = config.log.file.as_deref().map(open::log).transpose()?;
    // 5. Everything that may take more power than a child needs is open (a port below 1024, for one).
    let enforced = enter::give_up_what_no_child_needs(config.sandbox.mode)?;
    tracing::info!(%enforced, "Sandbox of the supervisor");
    // 6. Connect to device servers that others started.
    let mut devices = connect_sockets(&config)?;
    // 7. Start our own, all at once, and wait for the slowest.
    let spawner = Spawner {
        programs,
        log: config.log.clone(),
        memory_bytes: config.memory.size_bytes,
        iommu_backend: config.iommu_backend,
        bars_leak,
        log_file,
        confinement,
        journal: open::journal(config.log.format)?,
    };
    let mut watch = Watch::new(signals, Attachments::new(policy, spawner, managed));
    devices
        .iter()
        .for_each(|(id, _)| watch.attachments.add_socket(id.clone()));
    for group in groups {
        let started = watch
            .attachments
            .spawner()
            .device_server(&group, &mut None)?;
        watch.servers.add(group, started, None);
    }
    devices.extend(watch.until_ready()?);
    // 8. Start the VMM, and hand it everything. What was opened is closed here.
    let (vmm, control) = watch.attachments.spawner().vmm(config, files, devices)?;
    // What it sends is closed by another thread: that may take long.
    start_closing_alone().map_err(SuperviseError::Thread)?;
    manager.ready();
    watch.attachments.spare.expect(Instant::now());
    // 9. Watch, to the end. A service manager that stops a VM wants to hear that this went well.
    let status = watch.until_end(vmm, Control::new(control))?;
    let stopped = status == STOPPED_BY_SIGTERM;
    Ok(if manager.is_service() && stopped {
        0
    } else {
        status
    })
}

fn take_from_host(managed: &mut Managed, device: &HostDevice) -> Result<(), SuperviseError> {
    let host = device.host;
    if !device.options.managed || hosts::is_with_vfio(Path::new(hosts::SYSFS), host) {
        return Ok(());
    }
    let sysfs = Path::new(hosts::SYSFS);
    let taken = managed::check_driver(sysfs).and_then(|()| managed.take_now(host));
    taken.map_err(|reason| SuperviseError::NotTaken { host, reason })
}

fn host_devices(config: &Config) -> Vec<HostDevice> {
    let host_device = |device: &DeviceConfig| match device {
        DeviceConfig::VfioPci(device) => Some(HostDevice {
            id: device.common.id.clone(),
            host: device.host,
            options: device.common.options,
        }),
        DeviceConfig::RootPort(_) | DeviceConfig::VfioUserPci(_) => None,
    };
    config.devices.iter().filter_map(host_device).collect()
}

fn allowed_hosts(config: &Config) -> impl Iterator<Item = &PciAddress> {
    config.policy.iter().filter_map(|rule| match rule {
        PolicyRule::Host { host, .. } => Some(host),
        PolicyRule::Socket(_) | PolicyRule::Image(_) => None,
    })
}

fn connect_sockets(config: &Config) -> Result<Vec<Connected>, ConnectError> {
    let socket = |device: &DeviceConfig| match device {
        DeviceConfig::VfioUserPci(device) => {
            Some((device.common.id.clone(), device.socket.clone()))
        }
        DeviceConfig::RootPort(_) | DeviceConfig::VfioPci(_) => None,
    };
    let sockets = config.devices.iter().filter_map(socket);
    sockets
        .map(|(id, path)| connect::connect(&id, &path).map(|fd| (id, fd)))
        .collect()
}

#[cfg(test)]
mod tests;
