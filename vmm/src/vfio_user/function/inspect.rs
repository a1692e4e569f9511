//! What the operator is told of a device (`query-vfio-user`), by its host as well.

use protocol::client::MessageCounters;
use protocol::messages::version::Capabilities;

use super::{VfioUserFunction, lock};
use crate::vfio_user::bars::MappedArea;
use crate::vfio_user::host_notices::NoticeFd;
use crate::vfio_user::latency::{Bucket, Histogram};

impl VfioUserFunction {
    /// What the host's kernel may have to say of the device.
    pub fn host_notices(&self) -> &[NoticeFd] {
        &self.host_notices
    }

    /// Messages so far.
    pub fn counters(&self) -> MessageCounters {
        self.client.counters()
    }

    /// What the server announced and we offered as well.
    pub fn capabilities(&self) -> &Capabilities {
        self.client.server_capabilities()
    }

    /// The BAR areas that this process has mapped for the guest.
    pub fn mapped(&self) -> Vec<MappedArea> {
        lock(&self.bars).mapped()
    }

    /// How many BAR areas the guest reaches without an exit now.
    #[cfg(test)]
    pub(crate) fn mapped_areas(&self) -> usize {
        let areas = self.mapped();
        areas.iter().filter(|area| area.gpa.is_some()).count()
    }

    /// Whether this process maps any BAR of the device.
    #[cfg(test)]
    pub(crate) fn has_mappings(&self) -> bool {
        !self.mapped().is_empty()
    }

    /// Counts how long a trapped access takes.
    pub fn timed<T>(&self, access: impl FnOnce() -> T) -> T {
        self.latency.of(access)
    }

    /// How long trapped accesses took so far.
    pub fn latency(&self) -> Vec<Bucket> {
        self.latency.buckets()
    }

    /// The same for metrics.
    pub fn access_times(&self) -> Histogram {
        self.latency.histogram()
    }

    /// How many interrupts are wired to the guest.
    pub fn interrupts_wired(&self) -> u64 {
        lock(&self.interrupts).wired()
    }
}
