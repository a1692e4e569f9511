//! Entry point: arguments, log, then `run`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use device_server::cli::{self, ProcessArgs, Task};
use device_server::host::command::execute;
use device_server::ready::ReadyLine;
use device_server::run::{RunError, adopt, run, spare};
use device_server::serving::error_chain;
use telemetry::log::LogError;
use telemetry::service::passed_sockets;

/// Exit status of a start that failed, or of a device that could not be served any more.
const FAILED: u8 = 1;
/// Exit status of an argument that is wrong as only its use shows.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::parse(&arguments, passed_sockets()) {
        Ok(Task::Serve(command)) => start(&command.process.clone(), |ready| run(command, ready)),
        Ok(Task::Wait(spare)) => start(&spare.process.clone(), |ready| spare::run(spare, ready)),
        Ok(Task::Host(command)) => execute(command),
        Ok(Task::PrintSandbox) => print_sandbox(),
        Err(error) => {
            // Also --help and --version, which print to stdout and succeed.
            let _ = error.print();
            cli::usage_status(&arguments, &error).into()
        }
    }
}

/// Starts the log, and runs a server to its end.
fn start(
    process: &ProcessArgs,
    run: impl FnOnce(&mut Option<ReadyLine>) -> Result<(), RunError>,
) -> ExitCode {
    if let Err(error) = start_log(process) {
        eprintln!("bulkhead-device-server: {}", error_chain(&error));
        return BAD_USAGE.into();
    }
    let mut ready = match process
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
    match run(&mut ready) {
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

/// What a server may do, and what of it is in force when this process has entered its sandbox.
fn print_sandbox() -> ExitCode {
    // A reader that is gone has seen enough.
    let _printed = io::stdout().write_all(sandbox::show::servers().as_bytes());
    match sandbox::show::in_force_for_server() {
        Ok(enforced) => {
            let _printed = writeln!(
                io::stdout(),
                "in force here, of a type1 server's: {enforced}"
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bulkhead-device-server: {}", error_chain(&error));
            FAILED.into()
        }
    }
}

fn start_log(process: &ProcessArgs) -> Result<(), LogError> {
    let format = process.log_format;
    telemetry::log::start(&process.log_level, format, telemetry::log::output(format)?)
}
