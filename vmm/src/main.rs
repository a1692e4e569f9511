//! Entry point of `bulkhead-vmm`. Started by the operator it is stage 1, the supervisor; the supervisor starts it
//! again as stage 2, the VMM, with everything already open. The supervisor also starts it to copy one file for a running VMM.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sandbox::enter::EnterError;
use telemetry::Journal;
use telemetry::log::{Format, Output};
use vmm::cli::{self, Command};
use vmm::config::{
    Config, IMAGE_COPY_FD, STAGE_CONFIG_FD, STAGE_COPY_IMAGE, STAGE_VMM, StageConfig,
};
use vmm::run;
use vmm::supervisor;

/// Exit status of a command line that cannot be followed.
const USAGE: u8 = 2;
/// Most that stage 2 reads of its configuration, in bytes. Source: 256 devices with the longest ids and paths.
const MAX_STAGE_CONFIG_BYTES: u64 = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments == [STAGE_VMM] {
        return stage_vmm().unwrap_or_else(|error| fail(&error, 1));
    }
    if let [stage, path, limit] = arguments.as_slice()
        && stage == STAGE_COPY_IMAGE
    {
        return stage_copy_image(path, limit).unwrap_or_else(|error| fail(&error, 1));
    }
    match cli::parse(arguments) {
        Ok(Command::Print(text)) => {
            // A reader that is gone has seen enough.
            let _printed = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::PrintSandbox) => print_sandbox().unwrap_or_else(|error| fail(&error.into(), 1)),
        Ok(Command::Run(config)) => {
            stage_supervisor(*config).unwrap_or_else(|error| fail(&error, 1))
        }
        Err(error) => fail(&error.into(), USAGE),
    }
}

/// What each process may do, and what of a VMM's sandbox is in force when this process has entered it.
fn print_sandbox() -> Result<ExitCode, EnterError> {
    // A reader that is gone has seen enough.
    let _printed = io::stdout().write_all(sandbox::show::vm().as_bytes());
    let enforced = sandbox::show::in_force_for_vmm()?;
    let _printed = writeln!(io::stdout(), "in force here, of the VMM's: {enforced}");
    Ok(ExitCode::SUCCESS)
}

/// Stage 1.
fn stage_supervisor(config: Config) -> anyhow::Result<ExitCode> {
    let format = config.log.format;
    let output = match &config.log.file {
        None => telemetry::log::output(format)?,
        Some(path) => {
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path);
            Output::File(file.with_context(|| {
                format!(
                    "-D {}: cannot be opened; give a path that can be written",
                    path.display()
                )
            })?)
        }
    };
    telemetry::log::start(&config.log.level, format, output)?;
    Ok(supervisor::supervise(config))
}

/// Stage 2.
fn stage_vmm() -> anyhow::Result<ExitCode> {
    let started_by_supervisor = "this process is started by bulkhead-vmm itself, not by hand";
    let file = sandbox::sys::adopt_fd(STAGE_CONFIG_FD).context(started_by_supervisor)?;
    let mut text = String::new();
    File::from(file)
        .take(MAX_STAGE_CONFIG_BYTES)
        .read_to_string(&mut text)
        .context("read the stage configuration")?;
    let stage: StageConfig =
        serde_json::from_str(&text).context("understand the stage configuration")?;
    sandbox::mechanisms::fds::keep_only(&stage.fds.numbers())
        .context("close what the supervisor did not list")?;
    let log = stage.fds.log.map(sandbox::sys::adopt_fd);
    let log = log.transpose().context("take the log file")?;
    let log_config = &stage.config.log;
    let output = match (log, log_config.format) {
        (None, _) => Output::Stderr,
        (Some(fd), Format::Journald) => Output::Journal(Journal::from_connected(fd)),
        (Some(fd), Format::Text | Format::Json) => Output::File(fd.into()),
    };
    telemetry::log::start(&log_config.level, log_config.format, output)?;
    Ok(ExitCode::from(run::run_vmm(stage)?.status()))
}

/// A child of stage 1.
fn stage_copy_image(path: &OsStr, limit_bytes: &OsStr) -> anyhow::Result<ExitCode> {
    let by_hand = "this process is started by bulkhead-vmm itself, not by hand";
    let copy = sandbox::sys::adopt_fd(IMAGE_COPY_FD).context(by_hand)?;
    let limit_bytes = limit_bytes.to_str().context(by_hand)?.parse();
    supervisor::copy_image(
        Path::new(path),
        limit_bytes.context(by_hand)?,
        &File::from(copy),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// One line with all causes.
fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("bulkhead-vmm: {error:#}");
    ExitCode::from(status)
}
