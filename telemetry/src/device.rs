//! Which device a log line is about: a span that every line about a device is in.

use tracing::Span;

/// Target of the spans. They are on whatever the filter says, or lines would not tell their device.
pub(crate) const TARGET: &str = "bulkhead::device";
/// What is shown where an id or an address is not known: a device behind somebody else's socket has no address here.
pub const UNKNOWN: &str = "-";

/// The span of lines about the device with this id, at this PCI address.
pub fn span(id: &str, pci: &str) -> Span {
    tracing::error_span!(target: TARGET, "device", id, pci)
}
