//! The command line: QEMU's options, parsed once into a [`Config`].
//!
//! `-option` and `--option` are the same. Everything that can be checked without opening a device is checked here, and
//! each error is one line. Nothing is opened but files of
//! `-device-policy`, and `-mem-path` is asked for its page size.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command as Clap, value_parser};
use telemetry::log::Format;

use crate::config::machine::{MAX_SERIAL_PORTS, check_append, parse_cpu, parse_machine, parse_smp};
use crate::config::memory::MemoryObject;
use crate::config::{
    Config, ConfigError, DeviceConfig, IommuBackend, LogConfig, Machine, MemoryConfig,
    SandboxConfig, SerialConfig, help, monitor, policy, root_port, topology,
};

mod words;

#[cfg(test)]
mod tests;

const PROGRAM: &str = "bulkhead-vmm";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run this machine.
    Run(Box<Config>),
    /// Print this and end with success (`-help`, `-version`, `-device help`).
    Print(String),
    /// Print what each process may do, and what this machine gives of it (`-print-sandbox`).
    PrintSandbox,
}

/// A command line that cannot be followed: one line, exit status 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// Not an option, or an option without its value.
    #[error("{0}; see {PROGRAM} -help")]
    Usage(String),
    /// An option with a value that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let clap = options();
    let arguments = words::with_two_dashes(&clap, arguments)?;
    let mut matches = clap
        .clone()
        .try_get_matches_from(arguments)
        .map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            CliError::Usage(line.trim_start_matches("error: ").to_owned())
        })?;
    if matches.get_flag("help") {
        return Ok(Command::Print(clap.clone().render_help().to_string()));
    }
    if matches.get_flag("version") {
        return Ok(Command::Print(format!(
            "{PROGRAM} {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    if matches.get_flag("print-sandbox") {
        return Ok(Command::PrintSandbox);
    }
    let devices: Vec<String> = all(&mut matches, "device");
    if let Some(answer) = devices.iter().find_map(|device| help::answer(device)) {
        return Ok(Command::Print(answer?));
    }
    Ok(Command::Run(Box::new(config(&mut matches, &devices)?)))
}

fn config(matches: &mut ArgMatches, devices: &[String]) -> Result<Config, CliError> {
    let (machine, backend) = match one(matches, "machine") {
        Some(machine) => parse_machine(&machine)?,
        None => (Machine::Q35, None),
    };
    one(matches, "cpu").map(|cpu| parse_cpu(&cpu)).transpose()?;
    let cpus = one(matches, "smp").map_or(Ok(1), |smp| parse_smp(&smp))?;
    let memory = memory(matches, backend)?;
    let kernel = matches.remove_one::<PathBuf>("kernel").ok_or_else(|| {
        CliError::Usage(
            "-kernel is missing; give a bzImage or an ELF kernel with a PVH entry".to_owned(),
        )
    })?;
    let append = one(matches, "append").unwrap_or_default();
    check_append(&append).map_err(|reason| ConfigError::Missing(format!("-append: {reason}")))?;
    let serial = serial(&all(matches, "serial"))?;
    let mut devices = devices
        .iter()
        .map(|device| DeviceConfig::parse(device))
        .collect::<Result<Vec<_>, _>>()?;
    root_port::number_ports(&mut devices)?;
    topology::check(&devices)?;
    let [qmp, chardevs, mons] = ["qmp", "chardev", "mon"].map(|option| all(matches, option));
    let policy = policy::parse_all(&all(matches, "device-policy"))?;
    let sandbox = SandboxConfig::parse(
        one(matches, "sandbox").as_deref(),
        one(matches, "sandbox-uids").as_deref(),
        matches.remove_one("sandbox-cgroup"),
    )?;
    let name = one(matches, "name")
        .map(|name| monitor::parse_name(&name))
        .transpose()?;
    Ok(Config {
        machine,
        cpus,
        memory,
        kernel,
        initrd: matches.remove_one("initrd"),
        append,
        serial,
        devices,
        monitors: monitor::parse_all(&qmp, &chardevs, &mons)?,
        policy,
        sandbox,
        name,
        no_reboot: matches.get_flag("no-reboot"),
        iommu_backend: one(matches, "iommu-backend")
            .map_or(Ok(IommuBackend::Auto), |text| IommuBackend::parse(&text))?,
        log: log(matches)?,
        metrics: one(matches, "metrics")
            .map(|text| metrics(&text))
            .transpose()?,
        bars_leak: false,
    })
}

fn memory(matches: &mut ArgMatches, backend: Option<String>) -> Result<MemoryConfig, CliError> {
    let objects: Vec<String> = all(matches, "object");
    let object = match objects.as_slice() {
        [] => None,
        [object] => Some(MemoryObject::parse(object)?),
        [_, second, ..] => {
            return Err(ConfigError::option(
                "object",
                second,
                "one memory object is all a machine takes",
            )
            .into());
        }
    };
    if let Some(backend) = backend
        && object.as_ref().is_none_or(|object| object.id != backend)
    {
        let reason = "there is no -object with this id";
        return Err(
            ConfigError::option("machine", &format!("memory-backend={backend}"), reason).into(),
        );
    }
    let mem_path: Option<PathBuf> = matches.remove_one("mem-path");
    let prealloc = matches.get_flag("mem-prealloc");
    Ok(MemoryConfig::from_options(
        one(matches, "m").as_deref(),
        object,
        mem_path.as_deref(),
        prealloc,
    )?)
}

fn serial(values: &[String]) -> Result<Vec<SerialConfig>, CliError> {
    let ports = values
        .iter()
        .map(|value| SerialConfig::parse(value))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(extra) = values.get(MAX_SERIAL_PORTS) {
        let reason = format!("a machine has at most {MAX_SERIAL_PORTS} serial ports");
        return Err(ConfigError::option("serial", extra, reason).into());
    }
    if ports
        .iter()
        .filter(|port| **port == SerialConfig::Stdio)
        .count()
        > 1
    {
        return Err(
            ConfigError::option("serial", "stdio", "only one port can have the terminal").into(),
        );
    }
    Ok(ports)
}

fn metrics(text: &str) -> Result<PathBuf, ConfigError> {
    telemetry::metrics::socket_path(text)
        .map_err(|reason| ConfigError::option("metrics", text, reason))
}

fn log(matches: &mut ArgMatches) -> Result<LogConfig, CliError> {
    let level = one(matches, "log-level").unwrap_or_else(|| "warn".to_owned());
    if let Err(error) = telemetry::log::check_filter(&level) {
        return Err(ConfigError::option("log-level", &level, error).into());
    }
    let format = one(matches, "log-format").map_or(Ok(Format::Text), |name| {
        let wrong = |reason| ConfigError::option("log-format", &name, reason);
        name.parse().map_err(wrong)
    })?;
    let file: Option<PathBuf> = matches.remove_one("D");
    if let (Format::Journald, Some(path)) = (format, &file) {
        let reason = "the journal is no file; leave -D out, or log as text or json";
        return Err(ConfigError::option("D", &path.display().to_string(), reason).into());
    }
    Ok(LogConfig {
        format,
        level,
        file,
    })
}

fn one(matches: &mut ArgMatches, name: &str) -> Option<String> {
    matches.remove_one(name)
}

fn all(matches: &mut ArgMatches, name: &str) -> Vec<String> {
    matches.remove_many(name).into_iter().flatten().collect()
}

/// The whole command line, for its page in the manual.
pub fn command() -> Clap {
    options()
}

fn options() -> Clap {
    let value = |name: &'static str, shown: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(shown)
            .help(help)
            .value_parser(value_parser!(String))
    };
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("PATH")
            .help(help)
            .value_parser(value_parser!(PathBuf))
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .help(help)
            .action(ArgAction::SetTrue)
    };
    let many = |arg: Arg| arg.action(ArgAction::Append);
    Clap::new(PROGRAM)
        .about("Runs a Linux guest; every PCI device it is given lives in a device server, never in this process.\nAn option may be written with one dash or two.")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage("bulkhead-vmm -kernel PATH [OPTION]...")
        .args([
            value("machine", "q35", "the board: q35[,accel=kvm][,memory-backend=ID]"),
            value("cpu", "host", "the CPU model: host"),
            value("smp", "N", "number of CPUs, 1 to 32: N or cpus=N; 1 by default"),
            value("m", "SIZE", "memory, for example 512M or size=2G; 512M by default"),
            path("kernel", "a bzImage, or an ELF kernel with a PVH entry; required"),
            path("initrd", "the initial RAM disk"),
            value("append", "TEXT", "the kernel's command line, at most 2047 bytes"),
            many(value("serial", "WHERE", "a serial port, COM1 first: stdio, file:PATH, unix:PATH[,server=on|off] (listens by default) or none")),
            many(value("device", "DEVICE", "a device, as DRIVER,key=value,... or as QEMU's JSON; help lists them")),
            many(value("qmp", "WHERE", "a QMP socket: unix:PATH,server=on,wait=off, or tcp:127.0.0.1:PORT,server=on,wait=off")),
            many(value("chardev", "CHARDEV", "socket,id=ID,path=PATH|fd=NUMBER,server=on,wait=off: a socket for -mon")),
            many(value("mon", "MON", "chardev=ID,mode=control: QMP on this chardev")),
            many(value("device-policy", "RULE", "what device_add may add and set-boot-files may boot beside what the command line names: allow-host=ADDRESS[,allow-no-reset=on][,allow-noncoherent=on][,bar-mmap=off|force][,managed=on], allow-socket=PATH, allow-image=PATH, or a file of such lines")),
            value("sandbox", "MODE", "how the processes are confined: on, best-effort (what this kernel and user can), inherited (a service manager has done most) or off (for debugging); on by default"),
            value("sandbox-uids", "FIRST-LAST", "users and groups that the processes become, one each; made from process ids by default"),
            path("sandbox-cgroup", "start the processes in this folder of a cgroup v2 hierarchy"),
            switch("print-sandbox", "print what each process may do and why, and what this kernel and user give of it"),
            value("iommu-backend", "WAY", "how device servers reach the IOMMU: auto (iommufd where it can map files, else type1), iommufd or type1"),
            value("name", "NAME", "the machine's name, for query-name"),
            path("mem-path", "take guest memory in huge pages of the size of the hugetlbfs mounted here"),
            switch("mem-prealloc", "take all guest memory at start"),
            many(value("object", "OBJECT", "memory-backend-memfd,id=ID,size=SIZE,hugetlb=on[,hugetlbsize=2M|1G],share=on")),
            path(words::CONFIG, "take options from this file too: one per line, as here, without quotes; lines that begin with # are comments"),
            switch("no-reboot", "end when the guest resets"),
            path("D", "write the log to this file instead of standard error"),
            value("log-format", "FORMAT", "text, json or journald; text by default"),
            value("log-level", "FILTER", "error, warn, info, debug, trace, or levels per module as in warn,vmm::hotplug=debug; warn by default"),
            value("metrics", "unix:PATH", "make a socket there on which metrics can be read, in the OpenMetrics format over HTTP"),
            switch("nographic", "accepted, no effect: there is no display"),
            switch("nodefaults", "accepted, no effect: there are no default devices"),
            switch("enable-kvm", "accepted, no effect: KVM is always used"),
            switch("help", "print this").alias("h"),
            switch("version", "print the version"),
        ])
}
