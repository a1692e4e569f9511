//! Entry point: arguments, log, then `run`.

use std::ffi::OsString;
use std::process::ExitCode;

use device_server::cli::{self, LogFormat, ProcessArgs, Task};
use device_server::host::command::execute;
use device_server::ready::ReadyLine;
use device_server::run::{adopt, run};
use device_server::serving::error_chain;
use tracing_subscriber::EnvFilter;

/// Exit status of a start that failed, or of a device that could not be served any more.
const FAILED: u8 = 1;
/// Exit status of an argument that is wrong as only its use shows.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = match cli::parse(&arguments) {
        Ok(Task::Serve(command)) => command,
        Ok(Task::Host(command)) => return execute(command),
        Err(error) => {
            // Also --help and --version, which print to stdout and succeed.
            let _ = error.print();
            return cli::usage_status(&arguments, &error).into();
        }
    };
    if let Err(text) = start_log(&command.process) {
        eprintln!("bulkhead-device-server: {text}");
        return BAD_USAGE.into();
    }
    let mut ready = match command
        .process
        .ready_fd
        .map(|number| adopt("--ready-fd", number))
        .transpose()
    {
        Ok(fd) => fd.map(ReadyLine::new),
        Err(error) => {
            eprintln!("bulkhead-device-server: {}", error_chain(&error));
            return FAILED.into();
        }
    };
    match run(command, &mut ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error_chain(&error);
            match ready {
                Some(line) => line.failed(&text),
                None => eprintln!("bulkhead-device-server: {text}"),
            }
            FAILED.into()
        }
    }
}

/// Logs go to stderr.
fn start_log(process: &ProcessArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&process.log_level)
        .map_err(|error| format!("--log-level {}: {error}", process.log_level))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written is no reason to die.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let result = match process.log_format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    result.map_err(|error| format!("start the log: {error}"))
}
