//! What is counted of the passed devices, for the metrics socket. Each number is read when somebody asks for it.
//!
//! A device that is attached anew counts its messages and accesses from 0 again, as OpenMetrics has it for counters.
//! Not here: the socket and the text format (`telemetry::metrics`).
//! Limits: labels are ours, never a peer's: commands are those that this client sends.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use protocol::CommandCode;
use protocol::client::MessageCounters;
use telemetry::device::UNKNOWN;

use super::devices::Devices;
use super::table::Entry;
use crate::config::VfioCommon;
use crate::vfio_user::VfioUserFunction;
use crate::vfio_user::latency::Histogram;

/// The numbers of all devices of this machine.
pub fn registry(devices: &Arc<Devices>) -> Registry {
    let mut registry = Registry::with_prefix("bulkhead_vmm");
    registry.register_collector(Box::new(Collected(Arc::clone(devices))));
    registry
}

#[derive(Debug)]
struct Collected(Arc<Devices>);

/// One device at one moment.
struct Numbers {
    device: String,
    pci: String,
    messages: MessageCounters,
    accesses: Histogram,
    dma_bytes: u64,
    interrupts: u64,
    restarts: u64,
    is_lost: bool,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        Out {
            encoder: &mut encoder,
            devices: &self.0.numbers(),
        }
        .everything()
    }
}

/// Where numbers are written, and those of all devices.
struct Out<'out, 'text> {
    encoder: &'out mut DescriptorEncoder<'text>,
    devices: &'out [Numbers],
}

impl Out<'_, '_> {
    fn everything(&mut self) -> Result<(), Error> {
        self.by_command("messages", "Messages over the device's socket", |numbers| {
            Box::new(numbers.messages.by_command())
        })?;
        self.by_command(
            "message_errors",
            "Messages that the device server answered with an error",
            |numbers| Box::new(numbers.messages.refused_by_command()),
        )?;
        self.accesses()?;
        self.counter("resets", "Resets of the device", |numbers| {
            numbers.messages.of(CommandCode::DEVICE_RESET)
        })?;
        self.counter(
            "restarts",
            "Times that the device was attached anew after it was lost",
            |numbers| numbers.restarts,
        )?;
        self.gauge(
            "dma_mapped",
            "Guest memory that the device can reach",
            Some(&Unit::Bytes),
            |numbers| numbers.dma_bytes,
        )?;
        self.gauge(
            "interrupts_wired",
            "Interrupts that reach the guest without this process",
            None,
            |numbers| numbers.interrupts,
        )?;
        self.gauge(
            "device_lost",
            "Whether the guest has lost the device",
            None,
            |numbers| u64::from(numbers.is_lost),
        )
    }
}

impl Devices {
    fn numbers(&self) -> Vec<Numbers> {
        let memory: u64 = self
            .machine
            .services
            .ram
            .regions()
            .iter()
            .map(|ram| ram.len)
            .sum();
        let entries = self.table.all();
        entries.iter().map(|entry| numbers(entry, memory)).collect()
    }
}

fn numbers(entry: &Entry, memory_bytes: u64) -> Numbers {
    let function = entry.function.as_deref();
    let is_lost = function.is_some_and(|function| function.lost().is_some());
    let pci = |common: &VfioCommon| common.pci.clone();
    Numbers {
        device: entry.config.id().to_owned(),
        pci: entry.config.vfio().map_or_else(|| UNKNOWN.to_owned(), pci),
        messages: function.map(VfioUserFunction::counters).unwrap_or_default(),
        accesses: function
            .map(VfioUserFunction::access_times)
            .unwrap_or_default(),
        dma_bytes: function.filter(|_| !is_lost).map_or(0, |_| memory_bytes),
        interrupts: function.map_or(0, VfioUserFunction::interrupts_wired),
        restarts: entry.restarted,
        is_lost,
    }
}

type Commands = Box<dyn Iterator<Item = (CommandCode, u64)>>;

impl Out<'_, '_> {
    fn by_command(
        &mut self,
        name: &str,
        help: &str,
        commands: impl Fn(&Numbers) -> Commands,
    ) -> Result<(), Error> {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for numbers in self.devices {
            for (command, count) in commands(numbers) {
                let command = command.name().unwrap_or(UNKNOWN);
                let [device, pci] = labels(numbers);
                let labels = [device, pci, ("command", command)];
                count_of(&mut family.encode_family(&labels)?, count)?;
            }
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        of: impl Fn(&Numbers) -> u64,
    ) -> Result<(), Error> {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for numbers in self.devices {
            count_of(&mut family.encode_family(&labels(numbers))?, of(numbers))?;
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        of: impl Fn(&Numbers) -> u64,
    ) -> Result<(), Error> {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for numbers in self.devices {
            family
                .encode_family(&labels(numbers))?
                .encode_gauge(&of(numbers))?;
        }
        Ok(())
    }

    fn accesses(&mut self) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(
            "access_duration",
            "How long the guest waited for accesses that this process answers",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for numbers in self.devices {
            let Histogram {
                sum_seconds,
                count,
                buckets,
            } = &numbers.accesses;
            family
                .encode_family(&labels(numbers))?
                .encode_histogram::<NoLabelSet>(*sum_seconds, *count, buckets, None)?;
        }
        Ok(())
    }
}

fn labels(numbers: &Numbers) -> [(&'static str, &str); 2] {
    [("device", &numbers.device), ("pci", &numbers.pci)]
}

fn count_of(encoder: &mut MetricEncoder<'_>, count: u64) -> Result<(), Error> {
    encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[derive(Debug)]
    struct One;

    impl Collector for One {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
            let numbers = Numbers {
                device: "net".to_owned(),
                pci: "0000:1a:00.3".to_owned(),
                messages: MessageCounters::default(),
                accesses: Histogram {
                    sum_seconds: 0.5,
                    count: 4,
                    buckets: vec![(1e-6, 0), (1.0, 3), (f64::INFINITY, 1)],
                },
                dma_bytes: 1 << 30,
                interrupts: 4,
                restarts: 2,
                is_lost: true,
            };
            Out {
                encoder: &mut encoder,
                devices: &[numbers],
            }
            .everything()
        }
    }

    #[test]
    fn device_is_told_in_the_openmetrics_format() {
        let mut registry = Registry::with_prefix("bulkhead_vmm");
        registry.register_collector(Box::new(One));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let device = r#"device="net",pci="0000:1a:00.3""#;
        for line in [
            format!("bulkhead_vmm_access_duration_seconds_sum{{{device}}} 0.5\n"),
            format!("bulkhead_vmm_access_duration_seconds_bucket{{le=\"1.0\",{device}}} 3\n"),
            format!("bulkhead_vmm_access_duration_seconds_bucket{{le=\"+Inf\",{device}}} 4\n"),
            format!("bulkhead_vmm_resets_total{{{device}}} 0\n"),
            format!("bulkhead_vmm_restarts_total{{{device}}} 2\n"),
            format!("bulkhead_vmm_dma_mapped_bytes{{{device}}} 1073741824\n"),
            format!("bulkhead_vmm_interrupts_wired{{{device}}} 4\n"),
            format!("bulkhead_vmm_device_lost{{{device}}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
