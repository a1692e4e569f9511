//! Entry point of `bulkhead-vmm`: parses the command line and runs what it asks for.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use vmm::cli::{self, Command};
use vmm::config::{Config, LogConfig, LogFormat, SerialConfig};
use vmm::machine::serial::SerialWire;
use vmm::run::{self, ExitReason, Inherited};

/// Exit status of a command line that cannot be followed.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(&error.into(), USAGE),
    };
    match command {
        Command::Print(text) => {
            // A reader that is gone has seen enough.
            let _printed = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Run(config) => match start(&config) {
            Ok(reason) => ExitCode::from(reason.status()),
            Err(error) => fail(&error, 1),
        },
    }
}

fn start(config: &Config) -> anyhow::Result<ExitReason> {
    start_log(&config.log)?;
    Ok(run::run_machine(config, open(config)?)?)
}

fn open(config: &Config) -> anyhow::Result<Inherited> {
    Ok(Inherited {
        kvm: File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .context("Open /dev/kvm")?
            .into(),
        kernel: open_file("kernel", &config.kernel)?,
        initrd: config
            .initrd
            .as_deref()
            .map(|path| open_file("initrd", path))
            .transpose()?,
        serial: config
            .serial
            .iter()
            .map(wire)
            .collect::<anyhow::Result<_>>()?,
        control: None,
        devices: Vec::new(),
    })
}

fn open_file(what: &str, path: &Path) -> anyhow::Result<OwnedFd> {
    Ok(File::open(path)
        .with_context(|| format!("Open the {what} {}", path.display()))?
        .into())
}

fn wire(serial: &SerialConfig) -> anyhow::Result<SerialWire> {
    Ok(match serial {
        SerialConfig::Stdio => SerialWire::Stdio {
            input: io::stdin().as_fd().try_clone_to_owned()?,
            output: io::stdout().as_fd().try_clone_to_owned()?,
        },
        SerialConfig::File(path) => SerialWire::File(File::create(path)?.into()),
        SerialConfig::Unix { path, .. } => {
            SerialWire::Listener(std::os::unix::net::UnixListener::bind(path)?.into())
        }
        SerialConfig::None => SerialWire::None,
    })
}

fn start_log(log: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("-log-level")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// One line with all causes.
fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("bulkhead-vmm: {error:#}");
    ExitCode::from(status)
}
