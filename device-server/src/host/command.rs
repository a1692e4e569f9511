//! What the operator asks of the host: check, list, bind, unbind, vfs. Prints, and says with which status the program ends.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use protocol::PciAddress;

use super::error::HostError;
use super::helper::{Patience, be_helper};
use super::kernel::{RunningKernel, Step};
use super::notes::Before;
use super::rebind::Mover;
use super::roots::Roots;
use super::{bind, check, list, vfs};

/// Exit status where the output cannot be written.
const FAILED: u8 = 1;
/// Exit status of a check that could not be made, or not be printed: what is below says how the check came out.
const NOT_CHECKED: u8 = 15;

/// How output looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON value.
    Json,
}

/// One request.
#[derive(Debug, Clone)]
pub enum HostCommand {
    /// Can the host, and this device, be used?
    Check {
        /// The device.
        address: Option<PciAddress>,
        /// How it is printed.
        format: Format,
    },
    /// Which devices are there?
    List {
        /// How it is printed.
        format: Format,
    },
    /// Give devices to vfio-pci.
    Bind {
        /// Which.
        request: bind::Request,
        /// How long a driver may take.
        limit: Duration,
    },
    /// Give devices back.
    Unbind {
        /// Which.
        request: bind::Request,
        /// How long a driver may take.
        limit: Duration,
    },
    /// Make virtual functions.
    Vfs {
        /// Of which device, how many.
        request: vfs::Request,
        /// How long a driver may take.
        limit: Duration,
    },
    /// Be the helper process of one of the above.
    Step {
        /// The device.
        address: PciAddress,
        /// What is to be done.
        step: Step,
        /// What the device goes back to if the caller gives up.
        before: Before,
    },
}

/// Does what was asked, on the host that we run on.
pub fn execute(command: HostCommand) -> ExitCode {
    let roots = Roots::of_host();
    let mut out = io::stdout();
    match command {
        HostCommand::Step {
            address,
            step,
            before,
        } => be_helper(&roots, address, step, &before),
        HostCommand::Check { address, format } => match check::findings(&roots, address) {
            Ok(findings) => {
                let status = check::overall(&findings).exit_status();
                let printed = check::print(&findings, format, &mut out);
                ended(printed, status, NOT_CHECKED)
            }
            Err(error) => match error.exit_status() {
                HostError::FAILED => failed(&error, NOT_CHECKED),
                status => failed(&error, status),
            },
        },
        HostCommand::List { format } => ended(list::print(&roots, format, &mut out), 0, FAILED),
        HostCommand::Bind { request, limit } => with_mover(&roots, limit, &mut |mover| {
            bind::bind(mover, &request, &mut out)
        }),
        HostCommand::Unbind { request, limit } => with_mover(&roots, limit, &mut |mover| {
            bind::unbind(mover, &request, &mut out)
        }),
        HostCommand::Vfs { request, limit } => with_mover(&roots, limit, &mut |mover| {
            vfs::set(mover, &request, &mut out)
        }),
    }
}

fn with_mover(
    roots: &Roots,
    limit: Duration,
    action: &mut dyn FnMut(&Mover<'_>) -> Result<(), HostError>,
) -> ExitCode {
    let patience = match Patience::new(limit) {
        Ok(patience) => patience,
        Err(error) => {
            eprintln!("bulkhead-device-server: block signals: {error}");
            return FAILED.into();
        }
    };
    let kernel = RunningKernel::new(roots, patience);
    let mover = Mover {
        roots,
        kernel: &kernel,
        limit_seconds: limit.as_secs(),
    };
    match action(&mover) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_status()),
    }
}

fn failed(error: &HostError, status: u8) -> ExitCode {
    eprintln!("bulkhead-device-server: {}", error.line());
    status.into()
}

/// A reader that has seen enough (`host list | head`) is no failure.
fn ended(printed: io::Result<()>, status: u8, unprinted: u8) -> ExitCode {
    match printed.and_then(|()| io::stdout().flush()) {
        Ok(()) => status.into(),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => status.into(),
        Err(error) => {
            eprintln!("bulkhead-device-server: write to stdout: {error}");
            unprinted.into()
        }
    }
}
