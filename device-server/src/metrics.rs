//! What is counted of the devices that this process serves, for the metrics socket. Each number is there from the start.
//!
//! Not here: the socket and the text format (`telemetry::metrics`). What a backend does is counted by the backend that
//! stands before it (`metered`).
//! Limits: labels are ours, never a peer's: commands that do not exist are counted together.

mod metered;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use protocol::CommandCode;

pub use metered::Metered;

/// One more than the largest command that there is.
const COMMANDS: u16 = 19;
/// The label of all others.
const NO_COMMAND: &str = "none";

/// Which device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
    pci: String,
}

/// Which device, and which command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    device: String,
    pci: String,
    command: &'static str,
}

/// The numbers of all devices, by name.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<CommandLabels, Counter>,
    errors: Family<CommandLabels, Counter>,
    seconds: Family<CommandLabels, Histogram, fn() -> Histogram>,
    dma_maps: Family<DeviceLabels, Gauge>,
    dma_bytes: Family<DeviceLabels, Gauge>,
    interrupts: Family<DeviceLabels, Gauge>,
    resets: Family<DeviceLabels, Counter>,
    clients: Family<DeviceLabels, Counter>,
    refused_clients: Family<DeviceLabels, Counter>,
    connected: Family<DeviceLabels, Gauge>,
}

/// The numbers of one device.
#[derive(Debug, Clone)]
pub struct DeviceMetrics {
    commands: Vec<CommandMetrics>,
    no_command: CommandMetrics,
    dma_maps: Gauge,
    dma_bytes: Gauge,
    interrupts: Gauge,
    resets: Counter,
    clients: Counter,
    refused_clients: Counter,
    connected: Gauge,
}

#[derive(Debug, Clone)]
struct CommandMetrics {
    requests: Counter,
    errors: Counter,
    seconds: Histogram,
}

/// From 4 µs, below which no request is served, to about 17 s, by which the longest is given up.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(4e-6, 4.0, 12))
}

impl Default for Metrics {
    /// No device yet.
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("bulkhead_server"),
            requests: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            dma_maps: Family::default(),
            dma_bytes: Family::default(),
            interrupts: Family::default(),
            resets: Family::default(),
            clients: Family::default(),
            refused_clients: Family::default(),
            connected: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests of clients", metrics.requests.clone());
        registry.register(
            "request_errors",
            "Requests that were answered with an error",
            metrics.errors.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a request that was read to its reply being ready",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "dma_maps",
            "Ranges of client memory that the device can reach",
            metrics.dma_maps.clone(),
        );
        registry.register_with_unit(
            "dma_mapped",
            "Client memory that the device can reach",
            Unit::Bytes,
            metrics.dma_bytes.clone(),
        );
        registry.register(
            "interrupts_wired",
            "Interrupt vectors that have an eventfd of the client",
            metrics.interrupts.clone(),
        );
        registry.register(
            "resets",
            "Resets of the device, asked for or between clients",
            metrics.resets.clone(),
        );
        registry.register(
            "clients",
            "Clients that were served",
            metrics.clients.clone(),
        );
        registry.register(
            "refused_clients",
            "Processes that may not be clients and connected",
            metrics.refused_clients.clone(),
        );
        registry.register(
            "client_connected",
            "Whether a client is served now",
            metrics.connected.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// One more device, with all its numbers at 0.
    pub fn device(&self, device: &str, pci: &str) -> DeviceMetrics {
        let labels = DeviceLabels {
            device: device.to_owned(),
            pci: pci.to_owned(),
        };
        let command = |command| {
            let labels = CommandLabels {
                device: device.to_owned(),
                pci: pci.to_owned(),
                command,
            };
            CommandMetrics {
                requests: self.requests.get_or_create_owned(&labels),
                errors: self.errors.get_or_create_owned(&labels),
                seconds: self.seconds.get_or_create_owned(&labels),
            }
        };
        let name = |number| CommandCode(number).name().unwrap_or(NO_COMMAND);
        DeviceMetrics {
            commands: (0..COMMANDS).map(name).map(command).collect(),
            no_command: command(NO_COMMAND),
            dma_maps: self.dma_maps.get_or_create_owned(&labels),
            dma_bytes: self.dma_bytes.get_or_create_owned(&labels),
            interrupts: self.interrupts.get_or_create_owned(&labels),
            resets: self.resets.get_or_create_owned(&labels),
            clients: self.clients.get_or_create_owned(&labels),
            refused_clients: self.refused_clients.get_or_create_owned(&labels),
            connected: self.connected.get_or_create_owned(&labels),
        }
    }

    /// All numbers, for the metrics socket.
    pub fn into_registry(self) -> Registry {
        self.registry
    }
}

impl DeviceMetrics {
    /// A request was answered, `duration` after it was read.
    pub fn request_answered(&self, command: CommandCode, succeeded: bool, duration: Duration) {
        let counted = self.command(command);
        counted.requests.inc();
        counted.seconds.observe(duration.as_secs_f64());
        if !succeeded {
            counted.errors.inc();
        }
    }

    /// A request was refused as it stood, before a device saw it.
    pub fn request_refused(&self, command: CommandCode) {
        let counted = self.command(command);
        counted.requests.inc();
        counted.errors.inc();
    }

    /// A client is served from now on.
    pub fn client_came(&self) {
        self.clients.inc();
        self.connected.set(1);
    }

    /// It is not any more.
    pub fn client_left(&self) {
        self.connected.set(0);
    }

    /// A process was not taken for a client.
    pub fn client_refused(&self) {
        self.refused_clients.inc();
    }

    fn command(&self, command: CommandCode) -> &CommandMetrics {
        let known = self.commands.get(usize::from(command.0));
        known.unwrap_or(&self.no_command)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn text(metrics: Metrics) -> String {
        let mut text = String::new();
        encode(&mut text, &metrics.into_registry()).unwrap();
        text
    }

    #[test]
    fn request_is_counted_with_its_command_its_device_and_its_time() {
        let metrics = Metrics::default();
        let device = metrics.device("net", "0000:1a:00.3");
        device.request_answered(CommandCode::REGION_READ, true, Duration::from_micros(10));
        device.request_answered(CommandCode::REGION_READ, false, Duration::from_millis(2));
        device.request_refused(CommandCode(4711));
        let text = text(metrics);
        let labels = |command: &str| {
            format!("{{device=\"net\",pci=\"0000:1a:00.3\",command=\"{command}\"}}")
        };
        let read = labels("REGION_READ");
        for line in [
            format!("bulkhead_server_requests_total{read} 2\n"),
            format!("bulkhead_server_request_errors_total{read} 1\n"),
            format!("bulkhead_server_request_duration_seconds_count{read} 2\n"),
            format!("bulkhead_server_requests_total{} 1\n", labels("none")),
            format!("bulkhead_server_requests_total{} 0\n", labels("DMA_MAP")),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }

    #[test]
    fn every_command_that_has_a_name_has_numbers_of_its_own() {
        for number in COMMANDS..=u16::MAX {
            assert_eq!(CommandCode(number).name(), None, "{number}");
        }
    }
}
