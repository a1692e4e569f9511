//! Which program runs with which arguments and descriptors: device servers and stage 2.
//!
//! Every descriptor that a child gets is placed here, and nowhere else.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use protocol::supervisor::{ControlSocket, Order};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sandbox::prepare::{Child, ChildProcess, PrepareError};

use crate::config::{
    BarMmap, Config, DeviceSocket, FdTable, IommuBackend, LogConfig, STAGE_VMM, SerialFds,
    StageConfig,
};

use super::brake;
use super::confinement::{Birth, Confinement, ConfinementError};
use super::hosts::{self, HostDevice, HostError, HostGroup, SYSFS};
use super::nodes::{self, Nodes};
use super::open::OpenFiles;
use super::programs::{ProgramFile, ProgramMissing, Programs};
use super::ready::ReadyPipe;
use super::waiting::Waiting;

/// The first number after the standard streams. In stage 2 it holds the `StageConfig` as JSON.
const FIRST_FD: RawFd = crate::config::STAGE_CONFIG_FD;

/// What a device server may pin beside guest memory.
const LOCKED_BESIDE_MEMORY_BYTES: u64 = 64 << 20;

/// A device server that was started.
#[derive(Debug)]
pub(super) struct StartedServer {
    pub(super) process: ChildProcess,
    pub(super) ready: ReadyPipe,
    /// The VMM's ends, in the order of the group's devices.
    pub(super) sockets: Vec<OwnedFd>,
}

/// A device that the VMM gets, with its socket.
pub(super) type Connected = (String, OwnedFd);

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    #[error(transparent)]
    Missing(#[from] ProgramMissing),
    #[error("start the device server of {hosts}")]
    Server {
        hosts: String,
        #[source]
        source: PrepareError,
    },
    #[error("start a device server that waits for its device")]
    Spare(#[source] PrepareError),
    #[error("start the VMM process")]
    Vmm(#[source] PrepareError),
    #[error("{step}: no descriptors or memory are left; raise the limits (`ulimit -n`)")]
    SetUp {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Starts processes for one VM.
#[derive(Debug)]
pub(super) struct Spawner {
    pub(super) programs: Programs,
    pub(super) log: LogConfig,
    /// How much memory the guest has.
    pub(super) memory_bytes: u64,
    /// Which way to the IOMMU servers take.
    pub(super) iommu_backend: IommuBackend,
    /// Why BARs should not be mapped on this host, if so.
    pub(super) bars_leak: Option<String>,
    /// Where the log of the children goes, if that is not the supervisor's standard error.
    pub(super) log_file: Option<OwnedFd>,
    pub(super) confinement: Confinement,
    /// The VMM's connection to the journal, if it logs there: it cannot make one itself. Servers can.
    pub(super) journal: Option<OwnedFd>,
}

impl Spawner {
    /// Starts the device server of a group. One that waits for a device is taken, if there is one and it still can be.
    pub(super) fn device_server(
        &self,
        group: &HostGroup,
        waiting: &mut Option<Waiting>,
    ) -> Result<StartedServer, SpawnError> {
        let program = self.programs.device_server.clone()?;
        let nodes = nodes::open(Path::new(SYSFS), group, self.iommu_backend)?;
        if let [device] = group.devices.as_slice()
            && let Some(waiting) = waiting
                .take()
                .and_then(|waiting| waiting.if_usable(&program))
            && let Some(started) = self.give(waiting, group.number, device, &nodes)?
        {
            return Ok(started);
        }
        let (ready, ready_writer) = ReadyPipe::new().map_err(set_up("make a pipe"))?;
        let mut list = FdList::default();
        let mut args: Vec<OsString> = vec!["vfio".into()];
        let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
        option("--ready-fd", list.add(ready_writer).to_string());
        if let Some((container, group_fd)) = nodes.group {
            option("--container-fd", list.add(container).to_string());
            option("--group-fd", list.add(group_fd).to_string());
        }
        let (iommufd, device_nodes) = nodes.iommufd.unzip();
        if let Some(iommufd) = iommufd {
            option("--iommufd-fd", list.add(iommufd).to_string());
        }
        let mut device_nodes = device_nodes.into_iter().flatten();
        let mut sockets = Vec::new();
        for device in &group.devices {
            let (ours, theirs) = socket_pair()?;
            option("--host", device.host.to_string());
            option("--socket-fd", list.add(theirs).to_string());
            option("--id", device.id.clone());
            if let Some(node) = device_nodes.next() {
                option("--device-fd", list.add(node).to_string());
            }
            if !self.maps_bars(device) {
                option("--bar-mmap", "off".to_owned());
            }
            sockets.push(ours);
        }
        if group.allow_no_reset() {
            args.push("--allow-no-reset".into());
        }
        if group.allow_noncoherent() {
            args.push("--allow-noncoherent".into());
        }
        let birth = self.confinement.birth()?;
        let child = self.device_server_child(program, args, list, birth)?;
        let hosts = group.hosts();
        let process = child
            .spawn()
            .map_err(|source| SpawnError::Server { hosts, source })?;
        Ok(StartedServer {
            process,
            ready,
            sockets,
        })
    }

    /// Starts a device server that waits for its device.
    pub(super) fn waiting_server(&self) -> Result<Waiting, SpawnError> {
        let program = self.programs.device_server.clone()?;
        let file = ProgramFile::at(&program);
        let (ready, ready_writer) = ReadyPipe::new().map_err(set_up("make a pipe"))?;
        let (orders, server_orders) = ControlSocket::pair()
            .map_err(|error| set_up("make a socket pair")(io::Error::other(error)))?;
        let mut list = FdList::default();
        let mut args: Vec<OsString> = vec!["spare".into()];
        let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
        option("--ready-fd", list.add(ready_writer).to_string());
        option("--order-fd", list.add(server_orders).to_string());
        args.push("--early".into());
        let birth = self.confinement.birth_of_a_spare()?;
        let child = self.device_server_child(program, args, list, birth)?;
        let process = child.spawn().map_err(SpawnError::Spare)?;
        Ok(Waiting::new(process, ready, orders, file))
    }

    /// Gives a device to the server that waited for one. `None`: it does not take it.
    fn give(
        &self,
        waiting: Waiting,
        group: u32,
        device: &HostDevice,
        nodes: &Nodes,
    ) -> Result<Option<StartedServer>, SpawnError> {
        let (ours, theirs) = socket_pair()?;
        let order = Order {
            host: device.host,
            id: device.id.clone(),
            bar_mmap: self.maps_bars(device),
            allow_no_reset: device.options.allow_no_reset,
            allow_noncoherent: device.options.allow_noncoherent,
            early: nodes.group.is_some() && may_be_early(group, device),
        };
        let started = waiting.order(&order, theirs.as_fd(), nodes);
        Ok(started.map(|(process, ready)| StartedServer {
            process,
            ready,
            sockets: vec![ours],
        }))
    }

    /// With what does not depend on devices.
    fn device_server_child(
        &self,
        program: PathBuf,
        mut args: Vec<OsString>,
        list: FdList,
        birth: Birth,
    ) -> Result<Child, SpawnError> {
        let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
        option("--iommu-backend", self.iommu_backend.to_string());
        let locked = self.memory_bytes.saturating_add(LOCKED_BESIDE_MEMORY_BYTES);
        option("--max-locked-memory", locked.to_string());
        option("--log-level", self.log.level.clone());
        option("--log-format", self.log.format.name().to_owned());
        option("--sandbox", birth.mode.to_string());
        if let Some(uid) = birth.uid() {
            option("--sandbox-uid", uid.to_string());
        }
        if birth.alone() {
            args.push("--sandbox-alone".into());
        }
        let mut child = list.into_child(program, args);
        birth.give(&mut child);
        Ok(match self.copy_log()? {
            Some(log) => child.fd(2, log),
            None => child,
        })
    }

    /// Whether the VMM may map the BARs of a device. If the host keeps it from that, the operator is told why.
    fn maps_bars(&self, device: &HostDevice) -> bool {
        let Some(reason) = &self.bars_leak else {
            return device.options.bar_mmap != BarMmap::Off;
        };
        let span = telemetry::device::span(&device.id, &device.host.to_string());
        match device.options.bar_mmap {
            BarMmap::Off => false,
            BarMmap::On => {
                tracing::warn!(parent: &span, reason, "BARs are trapped; bar-mmap=force maps them all the same");
                false
            }
            BarMmap::Force => {
                tracing::warn!(parent: &span, reason, "BARs are mapped, by bar-mmap=force");
                true
            }
        }
    }

    /// Starts stage 2 with everything that was opened. Returns it and the supervisor's end of its control socket.
    pub(super) fn vmm(
        &self,
        config: Config,
        files: OpenFiles,
        devices: Vec<Connected>,
    ) -> Result<(ChildProcess, ControlSocket), SpawnError> {
        let (control, vmm_control) = ControlSocket::pair()
            .map_err(|error| set_up("make the control socket")(io::Error::other(error)))?;
        let stage_file = rustix::fs::memfd_create(
            "stage-config",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )
        .map_err(|errno| set_up("make a memfd")(errno.into()))?;
        let stage_copy = stage_file.try_clone().map_err(set_up("copy a memfd"))?;
        let log = match &self.journal {
            None => self.copy_log()?,
            Some(journal) => Some(journal.try_clone().map_err(set_up("copy a socket"))?),
        };
        let mut list = FdList::default();
        list.add(stage_file);
        let fds = FdTable {
            kvm: list.add(files.kvm),
            kernel: list.add(files.kernel),
            initrd: files.initrd.map(|fd| list.add(fd)),
            serial: files
                .serial
                .into_iter()
                .map(|ends| SerialFds {
                    input: ends.input.map(|fd| list.add(fd)),
                    output: ends.output.map(|fd| list.add(fd)),
                })
                .collect(),
            qmp: files.qmp.into_iter().map(|fd| list.add(fd)).collect(),
            metrics: files.metrics.map(|fd| list.add(fd)),
            control: Some(list.add(vmm_control)),
            log: log.map(|fd| list.add(fd)),
            devices: devices
                .into_iter()
                .map(|(id, socket)| DeviceSocket {
                    id,
                    socket: list.add(socket),
                })
                .collect(),
        };
        let birth = self.confinement.birth()?;
        let stage = StageConfig {
            config,
            uid: birth.uid(),
            alone: birth.alone(),
            fds,
        };
        write_stage(&stage_copy, &stage)?;
        drop(stage_copy);
        let mut child = list.into_child(self.programs.vmm.clone(), vec![STAGE_VMM.into()]);
        birth.give(&mut child);
        let process = child.spawn().map_err(SpawnError::Vmm)?;
        Ok((process, control))
    }

    fn copy_log(&self) -> Result<Option<OwnedFd>, SpawnError> {
        let copy = self.log_file.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(set_up("copy the log file"))
    }
}

/// Descriptors at consecutive numbers.
#[derive(Debug, Default)]
struct FdList(Vec<OwnedFd>);

impl FdList {
    fn number(index: usize) -> RawFd {
        FIRST_FD.saturating_add(RawFd::try_from(index).unwrap_or(RawFd::MAX))
    }

    /// Adds a descriptor and returns its number in the child.
    fn add(&mut self, fd: OwnedFd) -> RawFd {
        self.0.push(fd);
        Self::number(self.0.len() - 1)
    }

    fn into_child(self, program: PathBuf, args: Vec<OsString>) -> Child {
        let fds = self.0.into_iter().enumerate();
        fds.fold(Child::new(program, args), |child, (index, fd)| {
            child.fd(Self::number(index), fd)
        })
    }
}

/// Whether the client of a device may be served before that is open. Not where its server could then open another device of the group,
/// nor where a refusal waits until the host driver has the device again: meanwhile nobody would take what the server sends.
fn may_be_early(group: u32, device: &HostDevice) -> bool {
    let sysfs = Path::new(SYSFS);
    let alone = hosts::vfio_devices(sysfs, group).len() == 1;
    alone && !device.options.managed && !brake::may_do_dma(sysfs, device.host)
}

fn write_stage(file: &OwnedFd, stage: &StageConfig) -> Result<(), SpawnError> {
    let failed = set_up("write the stage configuration");
    let mut writer = io::BufWriter::new(std::fs::File::from(file.try_clone().map_err(&failed)?));
    serde_json::to_writer(&mut writer, stage).map_err(|error| failed(error.into()))?;
    io::Write::flush(&mut writer).map_err(&failed)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(file, seals).map_err(|errno| failed(errno.into()))?;
    // The child's copy shares this position.
    rustix::fs::seek(file, SeekFrom::Start(0)).map_err(|errno| failed(errno.into()))?;
    Ok(())
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| set_up("make a socket pair")(errno.into()))
}

fn set_up(step: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |source| SpawnError::SetUp { step, source }
}
