//! The command line of `host`: what the operator asks of the host.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use protocol::PciAddress;

use crate::host::command::{Format, HostCommand};
use crate::host::{Before, BindRequest, Step, VfsRequest};

/// Longest wait for a driver, in seconds.
const MAX_WAIT_SECONDS: u64 = 3600;
/// Virtual functions that one device can have. Source: 16-bit field TotalVFs of the SR-IOV capability.
const MAX_VIRTUAL_FUNCTIONS: i64 = 65535;

/// `host ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Host {
    /// Say whether this host, and a device, can be used, and what to do if not. Exit status: 0 ok, 1 warning, 2 blocked
    Check {
        /// PCI address of a device, as 0000:1a:00.3 or 1a:00.3
        #[arg(value_name = "ADDR")]
        address: Option<PciAddress>,
        #[command(flatten)]
        output: Output,
    },
    /// List the PCI devices of the host
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Give devices to vfio-pci, so that they can be passed
    Bind(Move),
    /// Give devices back to the drivers that they had
    Unbind(Move),
    /// Set the number of virtual functions (SR-IOV) of a device, and show them
    Vfs {
        /// PCI address of the physical function
        #[arg(value_name = "ADDR")]
        address: PciAddress,
        /// How many; 0 removes them
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(0..=MAX_VIRTUAL_FUNCTIONS))]
        count: u32,
        /// Also if existing virtual functions are in use
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    #[command(hide = true)]
    Step {
        address: PciAddress,
        #[arg(long)]
        before_override: String,
        #[arg(long)]
        before_driver: String,
        #[command(subcommand)]
        step: StepName,
    },
}

/// Options of `bind` and `unbind`.
#[derive(Debug, Args)]
pub(super) struct Move {
    /// PCI addresses, as 0000:1a:00.3 or 1a:00.3
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<PciAddress>,
    /// Also all other devices of their IOMMU groups
    #[arg(long)]
    group: bool,
    /// Also what the host or a virtual machine uses
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// How long a driver may take
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MAX_WAIT_SECONDS))]
    seconds: u64,
}

#[derive(Debug, Args)]
pub(super) struct Output {
    /// How the output looks
    #[arg(long, value_enum, default_value = "text")]
    format: FormatName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatName {
    /// For people
    Text,
    /// One JSON value
    Json,
}

/// What the helper process does.
#[derive(Debug, Subcommand)]
pub(super) enum StepName {
    Unbind,
    Probe,
    Vfs { from: u32, to: u32 },
}

impl From<Host> for HostCommand {
    fn from(host: Host) -> HostCommand {
        match host {
            Host::Check { address, output } => HostCommand::Check {
                address,
                format: output.format(),
            },
            Host::List { output } => HostCommand::List {
                format: output.format(),
            },
            Host::Bind(words) => HostCommand::Bind {
                limit: words.wait.limit(),
                request: words.request(),
            },
            Host::Unbind(words) => HostCommand::Unbind {
                limit: words.wait.limit(),
                request: words.request(),
            },
            Host::Vfs {
                address,
                count,
                force,
                wait,
            } => HostCommand::Vfs {
                request: VfsRequest {
                    address,
                    count,
                    force,
                },
                limit: wait.limit(),
            },
            Host::Step {
                address,
                before_override,
                before_driver,
                step,
            } => HostCommand::Step {
                address,
                before: Before {
                    driver: Some(before_driver).filter(|name| !name.is_empty()),
                    driver_override: before_override,
                },
                step: match step {
                    StepName::Unbind => Step::Unbind,
                    StepName::Probe => Step::Probe,
                    StepName::Vfs { from, to } => Step::VirtualFunctions { from, to },
                },
            },
        }
    }
}

impl Move {
    fn request(self) -> BindRequest {
        BindRequest {
            addresses: self.addresses,
            whole_groups: self.group,
            force: self.force,
        }
    }
}

impl Wait {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Output {
    fn format(&self) -> Format {
        match self.format {
            FormatName::Text => Format::Text,
            FormatName::Json => Format::Json,
        }
    }
}
